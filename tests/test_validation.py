"""Held-out trajectories and their loss."""

import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import SYNTHETIC_TASKS
from lightning.pytorch.callbacks import EarlyStopping
from quick_run import QUICK, STEPS, call, signal_at
from started import ended
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainings import SLOW, fit, training

from m3dt.data import Draws
from m3dt.runs.registry import Registry
from m3dt.utils.errors import UserError


def test_held_out_trajectories(synthetic):
    """Spread over the returns, never trained on, and measured as a naive mean over tasks says."""
    stage, data = training("stage 2", synthetic, "mixed", validation_trajectories=2)
    held_out = [set() for _ in SYNTHETIC_TASKS]
    for task, store in enumerate(data.store.tasks):
        order = store.episode_returns[:-2].argsort(kind="stable")
        held_out[task] = {int(order[1]), int(order[3])}  # of four
    for step in range(30):
        draws = data.draws(step)
        for task, begin in zip(draws.task.tolist(), draws.begin.tolist(), strict=True):
            number = int((data.store.tasks[task].episode_ends <= begin).sum())
            assert number < 4 and number not in held_out[task]
    validation = {"val_check_interval": 4, "check_val_every_n_epoch": None}
    trainer = fit(stage, data, steps=4, num_sanity_val_steps=0, **validation)
    stage.eval()
    losses = []
    with torch.no_grad():
        for task, expert in ((0, 0), (2, 0), (1, 1)):
            draws = data.plan.validation(task)
            number = (data.store.tasks[task].episode_ends[:, None] <= draws.begin.numpy()).sum(0)
            assert set(number.tolist()) <= held_out[task]
            batch = data.gather(Draws.join([draws, draws]))  # one part per expert
            losses.append(stage.row_losses(batch).view(2, -1).sum(dim=1)[expert])
    expected = float(torch.stack(losses).mean())
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(expected, rel=1e-5)


def test_ranks_have_as_many_rounds_of_validation(synthetic):
    """A rank without any would end the others; surplus rounds count nothing."""
    _, data = training("stage 1", synthetic, validation_trajectories=1)
    found = []
    for rank in range(4):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=4)
        (loader,) = data.val_dataloader()
        found.append([(r.chunk.inputs(0).task_index.tolist(), r.counted.tolist()) for r in loader])
    assert [len(rounds) for rounds in found] == [1, 1, 1, 1]
    counted = [tasks[0] for rounds in found for tasks, (counts,) in rounds if counts]
    assert counted == [0, 1, 2] and found[3] == [([2] * 6, [False])]


def test_too_many_held_out_trajectories_are_refused(synthetic):
    with pytest.raises(UserError, match="reach-v2 has 4 trajectories besides its prompts"):
        training("stage 1", synthetic, validation_trajectories=4)


def test_early_stopping_watches_the_validation_loss(synthetic):
    stage, data = training("stage 1", synthetic, validation_trajectories=1)
    stage.config = replace(SLOW, validate_every=2)
    never_better = EarlyStopping("val/loss", min_delta=1e9, patience=2)
    validation = {"val_check_interval": 2, "check_val_every_n_epoch": None}
    trainer = fit(stage, data, [never_better], num_sanity_val_steps=0, **validation)
    assert trainer.global_step == 6 and trainer.should_stop


def test_the_kept_weights_are_validated(data, tmp_path):
    """Whenever the last validation was: at the last step, or 20 steps before it and interrupted."""
    found = []
    for every in (40, 50):
        run, more = tmp_path / str(every), ("loader.validation_trajectories=1",)
        more += (f"stage1.validate_every={every}", "stage1.checkpoint_every=1000000")
        if every == 50:
            words = ["stage1", *QUICK, f"data={data}", f"run={run}", *more]
            assert ended([*words, signal_at(110, signal.SIGTERM)]).returncode == 143
        assert call("stage1", run, data, *more) == 0
        found.append(Registry(run).get("backbone", "main").metrics["val/loss"])
    events = EventAccumulator(str(tmp_path / "40/logs/stage1")).Reload()
    last = events.Scalars("val/loss")[-1]
    assert last.step == STEPS and found == [pytest.approx(last.value, rel=1e-5)] * 2
    assert found[0] == found[1]
