"""When checkpoints are written, which of them stay, and that they change no training."""

import errno
import io
import os
import shutil
from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch
from moments import MOMENTS
from quick_run import call
from test_stages import FAST, MODEL, data_for, fresh_model
from torch.utils.data import DataLoader

from m3dt.config import StageConfig
from m3dt.data import M3DTDataModule
from m3dt.runs import Registry
from m3dt.stages import BackboneStage
from m3dt.training import checkpointing, resume
from m3dt.training.checkpointing import CheckpointCallback
from m3dt.training.signals import Signals
from m3dt.utils import files
from m3dt.utils.errors import UserError


def names(folder):
    return sorted(path.name for path in folder.glob("*.ckpt"))


def test_the_next_step_at_which_it_must_be_called(tmp_path):
    def steps(**settings):
        saver = CheckpointCallback(tmp_path, StageConfig(**settings), Signals())
        return [saver.next_step(step) for step in (0, 9, 10, 14, 15, 29, 30)]

    assert steps(checkpoint_every=10) == [10, 10, 20, 20, 20, 30, 40]
    assert steps(checkpoint_every=10, keep_every=15) == [10, 10, 15, 15, 20, 30, 40]
    assert steps(checkpoint_every=100, keep_every=15) == [15, 15, 15, 15, 30, 30, 45]


@pytest.mark.parametrize(("minutes", "expected"), [(1, [3, 6, 8, 11, 14, 15]), (0, [8, 15])])
def test_checkpoints_by_time(data, tmp_path, monkeypatch, moments, minutes, expected):
    """A step takes 25 seconds here: a minute after the start or the last save is over in three."""
    clock, saved = [1000.0], []

    def pass_time(trainer):
        clock[0] += 25

    def note(trainer, path):
        saved.append(trainer.global_step)
        save(trainer, path)

    save = pl.Trainer.save_checkpoint
    monkeypatch.setattr(checkpointing, "monotonic", lambda: clock[0])
    monkeypatch.setattr(pl.Trainer, "save_checkpoint", note)
    moments.update({("start", step): pass_time for step in range(15)})
    words = ["stage1.max_steps=15", "stage1.checkpoint_every=8", MOMENTS]
    timed = [f"stage1.checkpoint_minutes={minutes}"]
    assert call("stage1", tmp_path / "run", data, *words, *timed) == 0
    assert saved == expected
    assert call("stage1", tmp_path / "other", data, *words, "stage1.checkpoint_every=1000") == 0
    hashes = [Registry(tmp_path / run).get("backbone", "main").hash for run in ("run", "other")]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("links", [True, False])
def test_kept_checkpoints_outlive_kills_and_the_stage(data, tmp_path, monkeypatch, moments, links):
    def refuse(*arguments):
        raise PermissionError

    if not links:
        monkeypatch.setattr(files.os, "link", refuse)
    run, killed = tmp_path / "run", tmp_path / "killed"
    words = ["stage1.max_steps=30", "stage1.checkpoint_every=4", "stage1.keep_every=6", MOMENTS]
    moments["start", 13] = lambda trainer: shutil.copytree(run, killed)
    assert call("stage1", run, data, *words) == 0
    moments.clear()
    kept = ["step12.ckpt", "step18.ckpt", "step24.ckpt", "step30.ckpt", "step6.ckpt"]
    assert names(run / "checkpoints" / "kept" / "stage1") == kept
    assert not (run / "checkpoints" / "stage1").exists()
    folder = killed / "checkpoints" / "stage1"
    assert names(folder) == ["step12.ckpt", "step8.ckpt"]
    assert names(resume.kept_folder(folder)) == ["step12.ckpt", "step6.ckpt"]
    (folder / "step12.ckpt").unlink()  # it resumes from 8, not from the one that is kept
    assert call("stage1", killed, data, *words) == 0
    assert names(resume.kept_folder(folder)) == kept
    for name in kept:
        states = [
            torch.load(r / "checkpoints" / "kept" / "stage1" / name, weights_only=True)
            for r in (run, killed)
        ]
        assert states[0]["global_step"] == states[1]["global_step"] == int(name[4:-5])
        for key, tensor in states[0]["state_dict"].items():
            assert torch.equal(states[1]["state_dict"][key], tensor)
    backbones = [Registry(r).get("backbone", "main") for r in (run, killed)]
    assert backbones[0].hash == backbones[1].hash
    assert resume.interrupted_stages(run / "checkpoints") == []


def test_a_kept_checkpoint_takes_its_space_once(tmp_path):
    source, other = tmp_path / "source", tmp_path / "other"
    source.write_bytes(b"first")
    files.link_file(source, other)
    assert source.samefile(other)
    files.link_file(source, other)  # once more, over itself
    assert source.samefile(other) and sorted(tmp_path.iterdir()) == [other, source]


def test_space_is_counted_with_what_stays(tmp_path, monkeypatch):
    """Two to resume from, one in the making, and the kept ones to come."""
    monkeypatch.setattr(resume, "free_space", lambda folder: 0)
    config = StageConfig(max_steps=100)
    for keep, start, wanted in ((0, 0, 3), (25, 0, 7), (25, 25, 6), (30, 89, 4)):
        with pytest.raises(UserError, match=f"checkpoints take {wanted} times"):
            resume.check_space(tmp_path, fresh_model(), replace(config, keep_every=keep), start)


class Validating(BackboneStage):
    def validation_step(self, batch, batch_idx):
        self.validated.append(self.trainer.global_step)


class WithValidation(M3DTDataModule):
    def val_dataloader(self):
        return DataLoader([self.batch(0)], batch_size=None)


class Stop(pl.Callback):
    """Interrupts before or after the checkpoint that follows the validation of a step."""

    def __init__(self, hook, step):
        self.hook, self.step = hook, step

    def on_validation_end(self, trainer, stage):
        self._raise("validation end", trainer)

    def on_train_batch_start(self, trainer, stage, *arguments):
        self._raise("start", trainer)

    def _raise(self, hook, trainer):
        if (hook, trainer.global_step) == (self.hook, self.step):
            raise InterruptedError


@pytest.mark.parametrize(
    ("hook", "saved", "validated"),
    [
        ("validation end", ["step3.ckpt"], [3, 6, 6, 9]),
        ("start", ["step3.ckpt", "step6.ckpt"], [3, 6, 9]),
    ],
)
def test_a_checkpoint_waits_for_the_validation_of_its_step(
    synthetic, tmp_path, hook, saved, validated
):
    """Whatever an interruption hits, no validation is left out."""
    data = data_for(synthetic, 1)
    data = WithValidation(data.store, data.loader, MODEL, 0, 1, data.streams[0])
    config, seen, states = replace(FAST, checkpoint_every=3), [], []
    for stop in (None, Stop(hook, 6), None):
        stage = Validating(fresh_model(), config, 0)
        stage.validated = seen if states else []
        folder = tmp_path / ("run" if states else "whole")
        folder.mkdir(exist_ok=True)
        trainer = pl.Trainer(
            max_steps=9, max_epochs=-1, logger=False, enable_progress_bar=False, accelerator="cpu",
            enable_model_summary=False, val_check_interval=3, check_val_every_n_epoch=None,
            use_distributed_sampler=False, num_sanity_val_steps=0,
            callbacks=[CheckpointCallback(folder, config, Signals()), *([stop] if stop else [])],
        )  # fmt: skip
        checkpoint = resume.newest_checkpoint(folder)
        if stop:
            with pytest.raises(InterruptedError):
                trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            assert names(folder) == saved
        else:
            trainer.fit(stage, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        states.append(stage.model.state_dict())
    assert seen == validated
    assert all(torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_checkpoint_that_the_system_will_not_read_is_not_passed_over(tmp_path, monkeypatch, code):
    """An older one, or none, would lose its steps."""
    for step in (5, 10):
        torch.save({}, tmp_path / f"step{step}.ckpt")
    assert resume.newest_checkpoint(tmp_path) == tmp_path / "step10.ckpt"

    def refuse(path, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(io, "open", refuse)
    with pytest.raises(UserError, match=f"step10.ckpt: cannot be read .{os.strerror(code)}"):
        resume.newest_checkpoint(tmp_path)
