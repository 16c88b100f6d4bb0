"""The gradient of one task, as grouping, HarmoDT and the callbacks measure it.

It is taken on a fixed probe batch, without dropout, in the precision of the weights, and never
touches `.grad`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from m3dt.data import M3DTDataModule
from m3dt.data.batch import Batch
from m3dt.stages.stage import Stage


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


def task_gradient(
    stage: Stage,
    data: M3DTDataModule,
    task: int,
    index: int = 0,
    parameters: Sequence[nn.Parameter] | None = None,
    batch_size: int | None = None,
) -> tuple[Tensor, ...]:
    """Return the gradient of a task's loss on one of its probe batches, a tensor per parameter.

    Args:
        stage: Gives the loss; call this within `evaluation_mode(stage)`.
        data: Gives the probe batches.
        task: Position of the task.
        index: Which probe batch.
        parameters: By default all that the stage trains.
        batch_size: Segments of the batch; by default the loader's.
    """
    batch = data.probe_batch(task, index, batch_size)
    return batch_gradient(stage, batch, parameters or list(stage.trainable().values()))


def batch_gradient(
    stage: Stage, batch: Batch, parameters: Sequence[nn.Parameter]
) -> tuple[Tensor, ...]:
    """Return the gradient of the loss of a batch, a tensor per parameter."""
    batch = stage.transfer_batch_to_device(batch, stage.device, 0)
    with torch.enable_grad(), torch.autocast(stage.device.type, enabled=False):
        return torch.autograd.grad(stage.loss(batch), parameters)


def flatten(gradient: Sequence[Tensor]) -> Tensor:
    """Return a gradient as one vector."""
    return torch.cat([part.flatten() for part in gradient])
