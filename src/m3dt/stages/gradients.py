"""The gradients of tasks, as grouping, HarmoDT and the callbacks measure them.

They are taken on fixed probe batches, without dropout, in the precision of the weights, and never
touch `.grad`.

Letters: `num_params` counts the parameters of a gradient.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from m3dt.data import Batch, Draws, M3DTDataModule
from m3dt.engine.graph import graphed
from m3dt.stages.stage import Stage
from m3dt.utils.processes import available_memory

# Gradients that come together: few launches on a GPU, and small temporary results.
_TOGETHER = 16

# Tasks and the number of their probe batch -> gradient, (num_params,).
ProbeGradient = Callable[[Sequence[int], int], Tensor]


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout off, and leave every module in the mode it was found in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def probe_gradients(
    stage: Stage,
    data: M3DTDataModule,
    parameters: Iterable[nn.Parameter] | None = None,
    batch_size: int | None = None,
) -> Iterator[ProbeGradient]:
    """Yield a function that returns the gradient of the loss on a probe batch as one vector.

    The function takes the tasks of the batch, the same number in every call, and which of their
    probe batches it is. Its next call may overwrite the result. On a GPU it is one CUDA graph,
    unless `compute.graph` is off.

    Args:
        stage: Gives the loss; dropout is off while the function can be called.
        data: Gives the probe batches.
        parameters: What the gradient is of, in this order; by default all that the stage trains.
        batch_size: Segments per task; by default the loader's.
    """
    chosen = list(stage.trainable().values() if parameters is None else parameters)
    device = stage.device

    def of_inputs(inputs: Draws | Batch) -> Tensor:
        batch = data.gather(inputs) if isinstance(inputs, Draws) else inputs
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            # Without noise, nothing uses the weights of a router's noise.
            gradient = torch.autograd.grad(stage.loss(batch), chosen, materialize_grads=True)
        return torch.cat([part.flatten() for part in gradient])

    run = graphed(of_inputs, device.type == "cuda" and stage.engine.compute.graph != "off")

    def of_tasks(tasks: Sequence[int], index: int) -> Tensor:
        draws = data.to_device(data.probe_draws(tasks, index, batch_size))
        if draws.task.device == device:
            return run(draws)
        return run(stage.transfer_batch_to_device(data.gather(draws), device, 0))

    with evaluation_mode(stage):
        yield of_tasks


def gradient_memory(device: torch.device, data: M3DTDataModule) -> int:
    """Return how many bytes the gradients of many tasks may take on a device.

    These are half of a GPU's memory without the resident dataset, or a quarter of the machine's,
    which its processes share. All memory counts, not what is free now: so a machine cuts the same
    blocks every time, and rounds alike.
    """
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        return (total - data.resident_bytes) // 2
    processes = dist.get_world_size() if dist.is_initialized() else 1
    return available_memory() // (4 * processes)


class GradientRows:
    """Gradients as the rows of a matrix, a few at a time; iterate as often as needed.

    Where all fit in memory, they are computed once and kept. Otherwise each pass computes them
    anew. Either way the same rows come together, if there is memory for that.

    Args:
        gradient: Returns the gradient of a number, (num_params,).
        count: How many gradients there are, with the numbers 0, 1, ...
        parameters: What the gradients are of.
        memory: Bytes for gradients; one is always held.
    """

    def __init__(
        self,
        gradient: Callable[[int], Tensor],
        count: int,
        parameters: Iterable[Tensor],
        memory: int,
    ) -> None:
        self.gradient = gradient
        self.count = count
        first, *others = parameters
        size = sum(p.numel() for p in (first, *others))
        fitting = max(1, memory // (size * first.element_size()))
        self._step = min(_TOGETHER, fitting)
        self._keeps = count <= fitting
        self._matrix = first.new_empty(count if self._keeps else self._step, size)
        self._computed = False

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the numbers of some gradients, and these gradients, (rows, num_params)."""
        for begin in range(0, self.count, self._step):
            end = min(begin + self._step, self.count)
            rows = self._matrix[begin:end] if self._keeps else self._matrix[: end - begin]
            if not self._computed:
                for number, row in zip(range(begin, end), rows, strict=True):
                    row.copy_(self.gradient(number))
            yield slice(begin, end), rows
        self._computed = self._keeps
