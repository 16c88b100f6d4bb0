"""Divide tasks among experts, at random or by agreement of gradients (section 4.2, appendix C).

Letters: N tasks, G mean gradient; `num_params` counts the parameters of one block.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from m3dt.config import GroupingConfig
from m3dt.data import M3DTDataModule
from m3dt.stages.gradients import gradient_memory, probe_gradients
from m3dt.stages.seeds import derive_seed
from m3dt.stages.stage import Stage
from m3dt.utils.errors import RunError

Groups = list[list[int]]  # positions of tasks in the suite, per group


def random_groups(num_tasks: int, num_groups: int, seed: int) -> Groups:
    """Shuffle the tasks and cut them into contiguous chunks whose sizes differ by at most one."""
    order = np.random.default_rng((seed, num_groups)).permutation(num_tasks)
    return [sorted(chunk.tolist()) for chunk in np.array_split(order, num_groups)]


def gradient_groups(gram: np.ndarray, num_groups: int, restarts: int, seed: int) -> Groups:
    """Cluster tasks by K-means on their agreement vectors, given their inner products.

    K-means needs only distances, so an embedding into N dimensions with the same Gram matrix
    replaces the vectors. Of all restarts, the grouping with the most even sizes wins; ties go to
    the lowest inertia.

    Args:
        gram: Inner products of the agreement vectors, (N, N).
        num_groups: Number of groups, at most N.
        restarts: Number of K-means runs.
        seed: Seed of the first run.

    Raises:
        RunError: The vectors are not finite.
    """
    if not np.isfinite(gram).all():
        raise RunError("some tasks' gradients are not finite. Look at the data: `m3dt verify`.")
    values, vectors = np.linalg.eigh(gram)
    embedding = vectors * np.sqrt(values.clip(min=0.0))  # (N, N)
    scale = np.abs(embedding).max()
    embedding = embedding / (scale if scale > 0 else 1.0)

    def run(restart: int) -> tuple[float, float, np.ndarray]:
        kmeans = KMeans(num_groups, n_init=1, random_state=derive_seed(seed, restart) % 2**32)
        labels = kmeans.fit_predict(embedding)
        return float(np.bincount(labels, minlength=num_groups).var()), kmeans.inertia_, labels

    *_, labels = min((run(i) for i in range(restarts)), key=lambda result: result[:2])
    return [np.flatnonzero(labels == g).tolist() for g in range(num_groups)]


def agreement_gram(stage: Stage, data: M3DTDataModule, config: GroupingConfig) -> np.ndarray:
    """Return the inner products of the tasks' agreement vectors g_i * G, (N, N) float64.

    g_i is the mean gradient of task i over its probe batches, G is the mean of all g_i, and * is
    elementwise. Parameters are processed in as few blocks as memory allows, since each block
    computes all gradients.

    Args:
        stage: Gives the loss and the parameters.
        data: Gives the probe batches.
        config: Batches per task, and the bound on the memory for one block's gradients.
    """
    parameters, num_tasks = list(stage.trainable().values()), len(data.store.tasks)
    memory = config.memory_gb * 2**30 or gradient_memory(stage.device, data)
    blocks = list(_blocks(parameters, int(memory / parameters[0].element_size() / num_tasks)))
    factors = clip_factors(stage, data, config) if len(blocks) > 1 else None
    gram = np.zeros((num_tasks, num_tasks))
    for block in blocks:
        agreement = mean_gradients(stage, data, config, block, factors)
        agreement.mul_(agreement.mean(dim=0))
        gram += (agreement @ agreement.T).double().cpu().numpy()
        del agreement  # before the next block takes memory
    return gram


def clip_factors(stage: Stage, data: M3DTDataModule, config: GroupingConfig) -> Tensor | None:
    """Return the factors that clip the gradients of the probe batches, (N, num_batches).

    They need norms over all parameters: a pass of its own before gradients of some parameters.
    Returns None if gradients are not clipped.
    """
    if config.gradient_clip == 0:
        return None
    tasks, indices = range(len(data.store.tasks)), range(config.num_batches)
    with probe_gradients(stage, data) as gradient:
        factors = [_factor(gradient([i], index), config) for i in tasks for index in indices]
    return torch.stack(factors).view(len(tasks), len(indices))


def mean_gradients(
    stage: Stage,
    data: M3DTDataModule,
    config: GroupingConfig,
    parameters: Sequence[nn.Parameter],
    factors: Tensor | None = None,
) -> Tensor:
    """Return each task's gradient, mean over its clipped probe batches, (N, num_params).

    Args:
        stage: Gives the loss.
        data: Gives the probe batches.
        config: Batches per task, and the norm to which their gradients are clipped.
        parameters: What the gradients are of.
        factors: Of `clip_factors`, where these are not all parameters.
    """
    size = sum(p.numel() for p in parameters)
    means = parameters[0].new_zeros(len(data.store.tasks), size)
    with probe_gradients(stage, data, parameters) as gradient:
        for task, mean in enumerate(means):
            for index in range(config.num_batches):
                part = gradient([task], index)
                factor = _factor(part, config) if factors is None else factors[task, index]
                mean.addcmul_(part, factor)
    return means.div_(config.num_batches)


def _factor(gradient: Tensor, config: GroupingConfig) -> Tensor:
    """Return the factor that clips a gradient, a tensor of no dimension."""
    if config.gradient_clip == 0:
        return gradient.new_ones(())
    return (config.gradient_clip / (gradient.norm() + 1e-6)).clamp(max=1.0)


def _blocks(parameters: Iterable[nn.Parameter], limit: int) -> Iterator[list[nn.Parameter]]:
    """Cut a list of parameters into runs of at most `limit` numbers, or one tensor."""
    block: list[nn.Parameter] = []
    for parameter in parameters:
        if block and sum(p.numel() for p in block) + parameter.numel() > limit:
            yield block
            block = []
        block.append(parameter)
    if block:
        yield block
