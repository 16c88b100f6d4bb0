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
from m3dt.stages.gradients import evaluation_mode, flatten, task_gradient
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
    elementwise. Parameters are processed in blocks: memory holds N gradients of one block.

    Args:
        stage: Gives the loss and the parameters.
        data: Gives the probe batches.
        config: Batches per task, and the bound on the memory for one block's gradients.
    """
    num_tasks = len(data.store.tasks)
    gram = np.zeros((num_tasks, num_tasks))
    limit = int(config.memory_gb * 2**30 / 4 / num_tasks)
    with evaluation_mode(stage):
        factors = [clip_factors(stage, data, i, config) for i in range(num_tasks)]
        for block in _blocks(stage.trainable().values(), limit):
            gradients = torch.stack(
                [mean_gradient(stage, data, i, factors[i], block) for i in range(num_tasks)]
            )  # (N, num_params)
            agreement = gradients.mul_(gradients.mean(dim=0))
            gram += (agreement @ agreement.T).double().cpu().numpy()
    return gram


def clip_factors(
    stage: Stage, data: M3DTDataModule, task: int, config: GroupingConfig
) -> list[float]:
    """Return the factors on the gradients of a task's probe batches: 1, unless they are clipped.

    Clipping needs the norm over all parameters, so it takes a pass of its own.
    """
    if config.gradient_clip == 0:
        return [1.0] * config.num_batches
    factors = []
    for index in range(config.num_batches):
        norm = float(flatten(task_gradient(stage, data, task, index)).norm())
        factors.append(min(1.0, config.gradient_clip / (norm + 1e-6)))
    return factors


def mean_gradient(
    stage: Stage,
    data: M3DTDataModule,
    task: int,
    factors: Sequence[float],
    parameters: Sequence[nn.Parameter],
) -> Tensor:
    """Return a task's gradient over some parameters, mean over its scaled probe batches."""
    parts = (
        flatten(task_gradient(stage, data, task, index, parameters)).mul_(factor)
        for index, factor in enumerate(factors)
    )
    total = next(parts)
    for part in parts:
        total += part
    return total.div_(len(factors))


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
