"""How many steps a call takes, and what Lightning counts."""

from dataclasses import replace
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from trainings import SLOW, Notes, fit, training

from m3dt.config import ComputeConfig
from m3dt.engine.chunks import ChunkPlan, next_multiple


def plan(callbacks=(), steps_per_call=0, largest=1000, further=(), max_steps=10_000, limit=1.0):
    trainer = SimpleNamespace(
        callbacks=list(callbacks), max_steps=max_steps, limit_train_batches=limit
    )
    return ChunkPlan(trainer, steps_per_call, largest, further)


class Every(pl.Callback):
    """Is called after each step, and says when it must be."""

    def __init__(self, period):
        self.period = period

    def next_step(self, step):
        return next_multiple(step, self.period)

    def on_train_batch_end(self, *arguments):
        """Do nothing."""


class Foreign(pl.Callback):
    def on_train_batch_end(self, *arguments):
        """Do nothing."""


@pytest.mark.parametrize(
    ("callbacks", "start", "expected"),
    [
        ([], 0, 100),
        ([], 9_950, 50),  # the end
        ([Every(30)], 0, 30),
        ([Every(30), Every(0)], 45, 15),
        ([Every(30), Every(8)], 30, 2),
        ([Foreign()], 7, 1),
        ([LambdaCallback(on_train_batch_end=print)], 7, 1),
        ([EarlyStopping("val/loss")], 0, 100),  # it acts after validation
        ([ModelCheckpoint(every_n_train_steps=40)], 30, 10),
        ([ModelCheckpoint(monitor="val/loss")], 30, 100),
    ],
)
def test_a_chunk_ends_where_something_must_happen(callbacks, start, expected):
    assert plan(callbacks, steps_per_call=100)(start) == expected


def test_other_ends_of_chunks():
    assert plan(steps_per_call=100, further=[lambda step: 12])(0) == 12
    assert plan(steps_per_call=100, largest=64)(0) == 64
    assert plan(steps_per_call=100, limit=5)(0) == 1  # Lightning counts calls there
    assert plan(steps_per_call=100, limit=1)(0) == 1


def test_automatic_chunks_last_less_than_a_second():
    chunks = plan()
    taken, step = [], 0
    for _ in range(30):  # 10 ms a step
        taken.append(chunks(step))
        step += taken[-1]
        chunks.adapt(0.01 * taken[-1], taken[-1])
    assert taken[:5] == [1, 2, 4, 8, 16] and set(taken[8:]) == {75}
    chunks.adapt(75.0, 75)  # a slow machine all of a sudden
    assert chunks(step) == 1


def test_a_callback_that_says_no_step_is_called_after_each(synthetic):
    seen = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, stage, optimizer):
            seen.append(("step", trainer.global_step, next(stage.parameters()).grad is not None))

        def on_train_batch_end(self, trainer, stage, outputs, *arguments):
            metric = trainer.callback_metrics
            seen.append((trainer.global_step, bool(outputs["loss"] == metric["train/loss"])))

    stage, data = training("stage 1", synthetic)
    fit(stage, data, [Watch()], steps=3)
    assert [entry[0] for entry in seen if entry[0] != "step"] == [1, 2, 3]
    assert len([entry for entry in seen if entry[0] == "step"]) == 3


@pytest.mark.parametrize("chunk", [1, 4, 7])
def test_lightning_counts_optimiser_steps(synthetic, tmp_path, chunk):
    """Its own checkpoints, validations and resumption mean steps, whatever a call takes."""
    stage, data = training("stage 1", synthetic, validation_trajectories=1)
    stage.config = replace(SLOW, validate_every=6)
    stage.set_compute(ComputeConfig(steps_per_call=chunk))
    notes = Notes()
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=5, save_top_k=-1)
    validation = {"val_check_interval": 6, "check_val_every_n_epoch": None}
    trainer = fit(
        stage, data, [saver], logger=notes, enable_checkpointing=True, num_sanity_val_steps=0,
        **validation,
    )  # fmt: skip
    assert trainer.global_step == trainer.fit_loop.epoch_loop.total_batch_idx + 1 == 12
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["step=10", "step=5"]
    assert [step for step, values in notes.found if "val/loss" in values] == [6, 12]
