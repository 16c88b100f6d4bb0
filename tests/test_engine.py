"""The engine: chunks and resident data equal single steps from files, to the bit."""

import copy
from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch
from trainings import SLOW, TRAININGS, Notes, fit, training

from m3dt.callbacks import GradientConflictCallback
from m3dt.config import ComputeConfig
from m3dt.data.resident import ResidentData
from m3dt.engine import engine as engine_room
from m3dt.engine import optimizer_steps
from m3dt.engine.bad_steps import BadSteps
from m3dt.engine.choices import Choices
from m3dt.stages import HarmoStage
from m3dt.utils.errors import RunError


def tensors_of(batch):
    return [*batch.segment, *batch.prompt, *batch[2:]]


@pytest.mark.parametrize("sampling", ["one_task", "mixed"])
@pytest.mark.parametrize("name", ["stage 1", "stage 2", "HarmoDT"])
def test_resident_batches_equal_those_from_files(synthetic, name, sampling):
    """To the bit, also a rank's share, a probe and a chunk, for both normalisations."""
    for normalization in ("floored", "official"):
        loader = {"normalization": normalization, "validation_trajectories": 1}
        _, data = training(name, synthetic, sampling, **loader)
        resident = ResidentData(data._mapped, "cpu")
        wanted = [data.draws(step, rank, 2) for step in range(20) for rank in (0, 1)]
        wanted += [data.plan.validation(1), data.plan.probe(2, 1, 7)]
        for draws in wanted:
            pairs = map(tensors_of, (resident.gather(draws), data._mapped.gather(draws)))
            for a, b in zip(*pairs, strict=True):
                assert a.dtype == b.dtype and torch.equal(a, b)


class Calls(pl.Callback):
    """Counts calls of `training_step` without asking for any."""

    def on_train_epoch_start(self, trainer, stage):
        take, self.lengths = stage.engine.take, []

        def counted(chunk):
            self.lengths.append(chunk.num_steps)
            return take(chunk)

        stage.engine.take = counted


def outcome(name, synthetic, sampling, resident, steps_per_call):
    """Train for 12 steps; return weights and optimiser state, what was logged, and the chunks."""
    stage, data = training(name, synthetic, sampling, resident=resident)
    stage.set_compute(ComputeConfig(steps_per_call=steps_per_call))
    data.place(torch.device("cpu"), 0)
    notes, calls = Notes(), Calls()
    trainer = fit(stage, data, [calls], logger=notes)
    assert trainer.global_step == 12
    state = [v for entry in trainer.optimizers[0].state.values() for v in entry.values()]
    masks = [stage.masks.packed] if isinstance(stage, HarmoStage) else []
    return [*stage.model.state_dict().values(), *state, *masks], notes.found, calls.lengths


@pytest.mark.parametrize("name", TRAININGS)
def test_chunks_of_resident_data_equal_steps_from_files(synthetic, name):
    """Weights, moments, masks and logs, to the bit."""
    sampling = "one_task" if name in ("HarmoDT", "stage 1") else "mixed"
    alone = outcome(name, synthetic, sampling, "off", 1)
    assert alone[2] == 12 * [1]
    assert [step for step, _ in alone[1]] == [2, 4, 6, 8, 10, 12]
    assert alone[1][0][1].keys() == {"train/loss", "train/gradient_norm", "learning_rate"}
    assert alone[1][0][1]["learning_rate"] == SLOW.learning_rate * 2 / 4
    together = outcome(name, synthetic, sampling, "on", 5)
    # HarmoDT revises its masks every 4 steps, between two chunks.
    assert together[2] == ([4, 4, 4] if "HarmoDT" in name else [5, 5, 2])
    assert together[1] == alone[1]
    assert all(torch.equal(a, b) for a, b in zip(together[0], alone[0], strict=True))


def test_automatic_chunks_grow_and_change_nothing(synthetic):
    alone = outcome("stage 1", synthetic, "mixed", "on", 1)
    grown = outcome("stage 1", synthetic, "mixed", "off", 0)
    assert grown[2][0] == 1 and sum(grown[2]) == 12 and max(grown[2]) > 1
    assert grown[1] == alone[1]
    assert all(torch.equal(a, b) for a, b in zip(grown[0], alone[0], strict=True))


def test_records_are_the_same_in_chunks(synthetic):
    """At the same steps, with the same values, and the same stop."""
    found = []
    for length in (1, 7):
        conflict = GradientConflictCallback(
            every_n_steps=2, min_steps=4, patience=1, window=1, significance=1
        )
        stage, data = training("stage 1", synthetic, "mixed", resident="on")
        stage.set_compute(ComputeConfig(steps_per_call=length))
        data.place(torch.device("cpu"), 0)
        fit(stage, data, [conflict])
        found.append((conflict.history, conflict.stopped_at, conflict.selected_weights()))
    (history, stopped_at, (step, weights)), other = found
    assert [record["step"] for record in history] == list(range(0, stopped_at + 1, 2))
    assert (history, stopped_at, step) == (*other[:2], other[2][0])
    assert 4 <= step < stopped_at < 12
    assert all(torch.equal(weights[name], tensor) for name, tensor in other[2][1].items())


def test_a_step_that_is_held_changes_nothing(synthetic):
    """A graph is recorded by running steps, which must leave no trace."""
    stage, data = training("HarmoDT", synthetic)
    stage.engine.finish = lambda: None  # it would let go of the steps
    fit(stage, data, steps=3)
    steps = stage.engine._steps
    tensors = [*stage.model.state_dict().values()]
    tensors += [v for entry in steps.optimizer.state.values() for v in entry.values()]
    before = [tensor.clone() for tensor in tensors]
    steps._held.fill_(1)
    rows, norm = steps.step(data.batch(3), 1e-2)
    assert rows.shape == (6,) and norm > 0
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    steps._held.zero_()
    steps.step(data.batch(3), 1e-2)
    assert not all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_a_recorded_step_draws_the_dropout_of_its_number(synthetic, monkeypatch):
    """Recording runs the step and draws; the replay must not go on from there."""

    class Recording:
        """Stands for a CUDA graph on a CPU: it runs the function."""

        def __init__(self, function):
            self.function, self.recorded = function, False

        def record(self, *arguments):
            self.recorded = True
            for _ in range(3):
                self.function(*arguments)

        def __call__(self, *arguments):
            assert self.recorded
            return self.function(*arguments)

    alone = outcome("stage 1", synthetic, "mixed", "on", 1)
    monkeypatch.setattr(optimizer_steps, "Graphed", Recording)
    chosen = Choices(graph=True, compile=False)
    monkeypatch.setattr(engine_room, "choose", lambda *arguments: chosen)
    # AdamW is capturable on other devices alone.
    update = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step",
        lambda self: (self.param_groups[0].update(capturable=False), update(self)),
    )  # fmt: skip
    recorded = outcome("stage 1", synthetic, "mixed", "on", 4)
    assert recorded[1] == alone[1]
    assert all(torch.equal(a, b) for a, b in zip(recorded[0], alone[0], strict=True))


def test_bad_steps_are_told_from_overflows():
    nan, inf = float("nan"), float("inf")
    steps = BadSteps()
    assert not steps.is_bad(1.0, 2.0, float16=False)
    assert steps.is_bad(nan, nan, float16=False) and steps.is_bad(1.0, inf, float16=False)
    assert steps.count == 2
    steps = BadSteps()
    assert not any(steps.is_bad(1.0, inf, float16=True) for _ in range(20))
    assert steps.is_bad(1.0, inf, float16=True) and steps.is_bad(nan, nan, float16=True)
    assert not steps.is_bad(1.0, 1.0, float16=True) and not steps.is_bad(1.0, inf, float16=True)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_resident_data_is_cast_as_batches_are(synthetic, precision):
    weights = []
    for resident in ("on", "off"):
        stage, data = training("stage 1", synthetic, resident=resident)
        data.place(torch.device("cpu"), 0)
        fit(stage, data, steps=3, precision=precision)
        weights.append([t.float() for t in stage.model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_stage_that_is_trained_can_be_copied(synthetic):
    """As callbacks do that average weights."""
    stage, data = training("stage 1", synthetic)
    fit(stage, data, steps=2)
    copied = copy.deepcopy(stage)
    assert copied.engine.stage is copied and copied.model is not stage.model
    fit(copied, training("stage 1", synthetic)[1], steps=3)


def test_steps_up_to_the_fatal_one_are_logged(synthetic):
    stage, data = training("stage 1", synthetic)
    stage.config = replace(SLOW, max_bad_steps=1)
    stage.set_compute(ComputeConfig(steps_per_call=6))
    draw = data.plan.at

    def spoiled(step, *ranks):
        draws = draw(step, *ranks)
        return draws._replace(loss_weight=draws.loss_weight * (float("nan") if step > 1 else 1))

    data.plan.at, notes = spoiled, Notes()
    with pytest.raises(RunError, match="not finite at step 3, after 1 such step was"):
        fit(stage, data, logger=notes)
    counts = {step: v["train/bad_steps"] for step, v in notes.found if "train/bad_steps" in v}
    assert counts == {3: 1, 4: 2}  # values are logged once their step is done
    assert [step for step, values in notes.found if "train/loss" in values] == [2]
