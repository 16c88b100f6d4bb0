"""Divide the tasks among the experts and register the result (section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from m3dt.plots.tensorboard import write_groups
from m3dt.runs import MAIN, Entry, check_parent, inference_device
from m3dt.stages import BackboneStage
from m3dt.stages.grouping import agreement_gram, gradient_groups, random_groups
from m3dt.training.finished import find_finished
from m3dt.training.parents import build_backbone, check_num_experts, trained_backbone
from m3dt.training.resume import is_first_rank, wait_for
from m3dt.training.run import Fitted, Product, Run


def group_tasks(run: Run) -> Entry:
    """Return the task groups, made now unless the registry holds them already.

    Raises:
        UserError: There is no backbone, or the registered groups were made otherwise.
    """
    config = run.config
    check_num_experts(run)
    backbone = trained_backbone(run, "group")
    if not is_first_rank():
        wait_for(lambda: run.registry.has("grouping", MAIN))  # the first rank groups for all
    settings = run.settings("grouping", "moe.num_experts")
    found = find_finished(run, "grouping", MAIN, settings)
    if found is not None:
        check_parent(run.registry, found, backbone)
        run.console.print("tasks are grouped already. Nothing to do.")
        return found
    run.begin()
    num_groups, tensors, gram = config.moe.num_experts, {}, None
    if config.grouping.method == "random":
        groups = random_groups(len(run.tasks), num_groups, config.seed)
    else:
        stage = BackboneStage(build_backbone(run, backbone), config.stage1, config.seed)
        stage.set_compute(config.compute)
        stage.to(inference_device(config))
        gram = agreement_gram(stage, run.batches("stage1"), config.grouping)
        groups = gradient_groups(gram, num_groups, config.grouping.restarts, config.seed)
        tensors["agreement_gram"] = torch.from_numpy(gram)
    tensors["labels"] = _labels(groups, len(run.tasks))
    named = [[run.tasks[i] for i in members] for members in groups]
    product = Product(MAIN, tensors, run.tasks)
    fitted = Fitted(0, {"groups": named})
    entry = run.describe("grouping", settings, [backbone], product, fitted)
    entry = run.registry.save(entry, tensors)
    write_groups(run.folder, gram, groups, run.tasks)
    for g, names in enumerate(named):
        run.console.print(f"  group {g}: {', '.join(names)}")
    return entry


def _labels(groups: list[list[int]], num_tasks: int) -> Tensor:
    """Return the group of each task, (N,) of int64."""
    labels = torch.empty(num_tasks, dtype=torch.int64)
    for g, members in enumerate(groups):
        labels[members] = g
    return labels
