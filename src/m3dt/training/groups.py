"""Divide the tasks among the experts (section 4.2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from m3dt.plots.tensorboard import write_groups
from m3dt.runs import MAIN, inference_device
from m3dt.stages import BackboneStage
from m3dt.stages.grouping import agreement_gram, gradient_groups, random_groups
from m3dt.training.job import Job
from m3dt.training.own_classes import recorded_stage_class
from m3dt.training.parents import build_backbone, check_num_experts, trained_backbone
from m3dt.training.ranks import is_first_rank, wait_for
from m3dt.training.run import Fitted, Product, Run


class GroupingJob(Job):
    """The task groups: at random, or by the agreement of gradients in the backbone."""

    title, kind = "task groups", "grouping"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        check_num_experts(run)
        self.parents = [trained_backbone(run, "group")]
        if not is_first_rank():
            # The first rank groups for all.
            wait_for(lambda: run.registry.has(self.kind, MAIN), run.folder)

    def settings(self) -> dict[str, Any]:
        return self.run.settings("grouping", "moe.num_experts")

    def make(self, missing: Sequence[str]) -> None:
        run, config = self.run, self.run.config
        run.begin()
        num_groups, tensors, gram = config.moe.num_experts, {}, None
        if config.grouping.method == "random":
            groups = random_groups(len(run.tasks), num_groups, config.seed)
        else:
            gram = self._agreement_gram()
            groups = gradient_groups(gram, num_groups, config.grouping.restarts, config.seed)
            tensors["agreement_gram"] = torch.from_numpy(gram)
        group_of = {task: g for g, members in enumerate(groups) for task in members}
        tensors["labels"] = torch.tensor([group_of[i] for i in range(len(run.tasks))])
        named = [[run.tasks[i] for i in members] for members in groups]
        self.register(Product(MAIN, tensors, run.tasks), Fitted(0, {"groups": named}))
        write_groups(run.folder, gram, groups, run.tasks)
        for g, names in enumerate(named):
            run.console.print(f"  group {g}: {', '.join(names)}")

    def _agreement_gram(self) -> np.ndarray:
        """Measure how the tasks' gradients in the backbone agree."""
        run, config = self.run, self.run.config
        backbone, data = build_backbone(run, self.parents[0]), run.batches("stage1")
        kind = recorded_stage_class(self.parents[0], "stage1", BackboneStage)
        stage = kind(backbone, config.stage1, config.seed)
        stage.set_compute(config.compute)
        stage.to(inference_device(config))
        placed = data.place(stage.device, sum(p.nbytes for p in backbone.parameters()))
        if placed:
            run.console.print(placed)
        return agreement_gram(stage, data, config.grouping)
