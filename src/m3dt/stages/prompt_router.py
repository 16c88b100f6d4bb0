"""The router by prompts: it learns which group each task is in, without running a single expert.

Letters: B prompts, N tasks, E experts, S state dim.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from m3dt.config import StageConfig
from m3dt.data import Batch, Draws, M3DTDataModule, TaskContext, ValidationRound
from m3dt.data.batch import Segment
from m3dt.models import PromptDT
from m3dt.models.routing import PromptRouter, prompt_features
from m3dt.stages.stage import Stage

PROMPTS_KEPT = 64  # of each task, in the registry


def acting_features(context: TaskContext) -> Tensor:
    """Return features of the prompts that an agent acts with, (N, prompts per task, F)."""
    N, each = context.prompts.states.shape[:2]
    prompts = Segment(*(tensor.flatten(0, 1) for tensor in context.prompts))
    statistics = (context.prompt_mean, context.prompt_std)
    mean, std = (tensor.repeat_interleave(each, dim=0) for tensor in statistics)
    return prompt_features(prompts, mean, std).unflatten(0, (N, each))


class PromptRouterStage(Stage):
    """Trains the prompt router of a model by cross-entropy to the tasks' groups.

    A batch holds pieces of trajectories, cut as prompts are. The model itself does not run.

    An extended run has no data of the tasks that it knows already. Features of their prompts, which
    the registry keeps, take part in each step instead; every task weighs the same. Of a new task
    there may be few trajectories, which are not like the prompts that the agent acts with. So these
    prompts take part in each step, too, and make half of the task's loss.

    Args:
        model: Any model with a `prompt_router`.
        config: The optimiser.
        seed: Seed of the experiment.
        context: Gives the normalisation of the tasks' states.
        groups: The expert of each task, N numbers.
        kept: Features of other tasks' prompts, (tasks, prompts, F).
        kept_groups: The expert of each of these tasks.
        acting: Features of the prompts that an agent acts with, (N, prompts per task, F). Without
            them, only pieces of trajectories take part.
    """

    number = 4
    trains_actions = False
    mean: Tensor  # (N, S)
    std: Tensor  # (N, S)
    groups: Tensor  # (N,)
    kept: Tensor  # (prompts of all other tasks, F)
    kept_groups: Tensor  # (prompts of all other tasks,)
    acting: Tensor  # (N, prompts per task, F)

    def __init__(
        self,
        model: PromptDT,
        config: StageConfig,
        seed: int,
        context: TaskContext,
        groups: Sequence[int],
        kept: Tensor | None = None,
        kept_groups: Sequence[int] = (),
        acting: Tensor | None = None,
    ) -> None:
        assert isinstance(model.prompt_router, PromptRouter)
        super().__init__(model, config, seed, [model.prompt_router])
        self.register_buffer("mean", context.state_mean, persistent=False)
        self.register_buffer("std", context.state_std, persistent=False)
        self.register_buffer("groups", torch.tensor(groups), persistent=False)
        none = torch.zeros(len(groups), 0, len(model.prompt_router.mean))
        kept = none[:0] if kept is None else kept
        repeated = torch.tensor(kept_groups, dtype=torch.int64).repeat_interleave(kept.shape[1])
        self.register_buffer("kept", kept.flatten(0, 1), persistent=False)
        self.register_buffer("kept_groups", repeated, persistent=False)
        self.register_buffer("acting", none if acting is None else acting, persistent=False)
        self.kept_share = len(kept_groups) / (len(kept_groups) + len(groups))
        self.validation_accuracy = MeanMetric(nan_strategy="disable")

    @property
    def title(self) -> str:
        return "router by prompts"

    @property
    def router(self) -> PromptRouter:
        """The router that trains."""
        router = self.model.prompt_router
        assert isinstance(router, PromptRouter)
        return router

    def features(self, batch: Batch) -> Tensor:
        """Return the features of a batch's segments, (B, F)."""
        return prompt_features(
            batch.segment, self.mean[batch.task_index], self.std[batch.task_index]
        )

    @torch.no_grad()
    def standardize(self, data: M3DTDataModule) -> Tensor:
        """Take the features' mean and deviation from fixed prompts, and return these features.

        Returns:
            (N, `PROMPTS_KEPT`, F), to be kept for extensions: pieces of trajectories, of which
            copies of the prompts that an agent acts with replace half, if they take part.
        """
        tasks = range(len(data.store.tasks))
        pieces = [self.features(data.probe_batch(t, batch_size=PROMPTS_KEPT)) for t in tasks]
        found = torch.stack(pieces)
        if each := self.acting.shape[1]:
            half = PROMPTS_KEPT // 2
            found[:, :half] = self.acting[:, torch.arange(half) % each]
        self.router.standardize(torch.cat([found.flatten(0, 1), self.kept]))
        return found

    def row_losses(self, batch: Batch) -> Tensor:
        """Return what each prompt adds to the mean cross-entropy, (B,)."""
        logits = self.router.logits(self.features(batch))
        wanted = self.groups[batch.task_index]
        losses = F.cross_entropy(logits, wanted, reduction="none")
        if self.acting.numel():
            of_acting = self.router.logits(self.acting).transpose(1, 2)  # (N, E, prompts per task)
            each = self.groups[:, None].expand(-1, of_acting.shape[2])
            losses = (losses + F.cross_entropy(of_acting, each)) / 2
        if self.kept_share:
            of_kept = F.cross_entropy(self.router.logits(self.kept), self.kept_groups)
            losses = (1 - self.kept_share) * losses + self.kept_share * of_kept
        return losses / len(wanted)

    def validation_step(self, held_out: ValidationRound, batch_idx: int) -> None:
        """Log loss and accuracy on held-out trajectories: `val/loss` and `val/accuracy`."""
        inputs = held_out.chunk.inputs(0)
        batch = self.data.gather(inputs) if isinstance(inputs, Draws) else inputs
        logits, wanted = self.router.logits(self.features(batch)), self.groups[batch.task_index]
        if held_out.counted.all():  # ranks have as many rounds, of which some count nothing
            self.validation_loss.update(F.cross_entropy(logits, wanted, reduction="none"))
            self.validation_accuracy.update((logits.argmax(dim=1) == wanted).float())
        self.log("val/loss", self.validation_loss, on_step=False, on_epoch=True)
        self.log("val/accuracy", self.validation_accuracy, on_step=False, on_epoch=True)

    @torch.no_grad()
    def gates(self, context: TaskContext) -> Tensor:
        """Return the gates of the prompts that an agent acts with, (N, prompts per task, E)."""
        return self.router(acting_features(context).to(self.device))

    def weights(self) -> dict[str, Tensor]:
        """Return what was trained, with the features' mean and deviation."""
        return self.router.state_dict()
