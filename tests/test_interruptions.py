"""Stages killed, resumed, spread over processes: they end as if nothing had happened."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from moments import MOMENTS
from quick_run import QUICK, STEPS, call, kill_after, signal_at, wait_for
from started import Command, ended
from test_stages import FAST, data_for, fresh_model, train

from m3dt.runs.registry import Registry
from m3dt.stages import BackboneStage
from m3dt.training.resume import AtomicCheckpointIO, newest_checkpoint, remove_older


@pytest.mark.parametrize(
    ("stage", "workers"), [("stage1", 0), ("stage2", 0), ("stage3", 0), ("stage1", 2)]
)
def test_killed_and_resumed_equals_uninterrupted(finished, data, tmp_path, stage, workers):
    """kill -9 after a checkpoint; the same command ends in the same bits."""
    run = tmp_path / "run"
    made = {"stage1": ["backbone"], "stage2": ["grouping", "expert"], "stage3": ["router"]}
    kinds = [kind for s in ("stage1", "stage2", "stage3") if s < stage for kind in made[s]]
    for kind in kinds:
        shutil.copytree(finished / "registry" / kind, run / "registry" / kind)
    loading = f"loader.num_workers={workers}"
    words = [stage, *QUICK, f"data={data}", f"run={run}", loading]
    children = kill_after(words, lambda: list((run / "checkpoints").rglob("step*.ckpt")))
    assert len(children) >= workers
    assert not any((run / "registry" / kind).exists() for kind in made[stage][-1:])
    assert call(stage, run, data, loading) == 0
    for entry in Registry(run).entries():
        assert entry.hash == Registry(finished).get(entry.kind, entry.name).hash, entry.key


EARLY_STOP = tuple(
    f"callbacks.conflict.{setting}"
    for setting in ("every_n_steps=10", "min_steps=20", "patience=1", "significance=1", "window=1")
)


def test_killed_after_the_conflict_stop(data, tmp_path, monkeypatch):
    """The stop itself is in the checkpoint: a resumed run must not train on."""
    early = [*EARLY_STOP, "stage1.decay=none"]
    assert call("stage1", tmp_path / "whole", data, *early) == 0
    whole = Registry(tmp_path / "whole").get("backbone", "main")
    conflict = whole.metrics["conflict"]
    assert whole.step < conflict["stopped_at"] < STEPS
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "save", interrupt)
        assert call("stage1", tmp_path / "killed", data, *early) == 130
    assert call("stage1", tmp_path / "killed", data, *early) == 0
    resumed = Registry(tmp_path / "killed").get("backbone", "main")
    assert (resumed.hash, resumed.step) == (whole.hash, whole.step)
    assert resumed.metrics["conflict"] == conflict


def test_killed_in_the_cooldown_after_the_stop(data, tmp_path):
    """A resumed run goes on with the cooldown, to the same last step and weights."""
    early = [*EARLY_STOP, "stage1.decay=cooldown", "stage1.cooldown_share=0.25"]
    assert call("stage1", tmp_path / "whole", data, *early) == 0
    whole = Registry(tmp_path / "whole").get("backbone", "main")
    stopped_at = whole.metrics["conflict"]["stopped_at"]
    assert stopped_at < whole.step == round(1.25 * stopped_at) < STEPS
    killed = ["stage1", *QUICK, *early, f"data={data}"]
    killed += [f"run={tmp_path / 'killed'}", signal_at(stopped_at + 5, signal.SIGTERM)]
    assert ended(killed).returncode == 143
    assert call("stage1", tmp_path / "killed", data, *early) == 0
    resumed = Registry(tmp_path / "killed").get("backbone", "main")
    assert (resumed.hash, resumed.step) == (whole.hash, whole.step)
    assert resumed.metrics["conflict"] == whole.metrics["conflict"]


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.fixture
def broken_task(monkeypatch):
    """Let the loss of the first task be NaN."""
    losses = BackboneStage.row_losses

    def broken(stage, batch):
        return losses(stage, batch) * torch.where(batch.task_index == 0, float("nan"), 1.0)

    monkeypatch.setattr(BackboneStage, "row_losses", broken)


def test_a_gradient_that_is_not_finite_stops_the_run(data, tmp_path, capsys, broken_task):
    assert call("stage1", tmp_path / "run", data, "stage1.max_bad_steps=2") == 1
    message = capsys.readouterr().err
    # Every third step is of the broken task: 0, 3 and, one too many, 6.
    assert "not finite at step 6, after 2 such steps were skipped." in message
    assert "The batch is of reach-v2 (rows [0, " in message
    assert Registry(tmp_path / "run").entries() == []


@pytest.mark.filterwarnings("ignore:Error detected in:UserWarning")
def test_an_anomaly_that_is_searched_for_is_named(data, tmp_path, capsys, broken_task):
    assert call("stage1", tmp_path / "run", data, "trainer.detect_anomaly=true") == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("m3dt: trainer.detect_anomaly: Function 'MulBackward0' returned nan")


def test_a_step_that_is_not_finite_is_skipped(synthetic):
    """Weights stay as they were, are finite, and learn on with the next batch."""
    data = data_for(synthetic, 1)
    stage = BackboneStage(fresh_model(), FAST, 0)
    draw, weights = data.plan.at, []

    def sometimes(step, rank=0, world_size=1):
        draws = draw(step, rank, world_size)
        broken = draws.loss_weight * (float("nan") if step in (1, 2) else 1)
        return draws._replace(loss_weight=broken)

    class Remember(pl.Callback):
        def on_train_batch_end(self, trainer, stage, *arguments):
            weights.append(torch.cat([p.detach().flatten() for p in stage.trainable().values()]))

    data.plan.at = sometimes
    train(stage, data, steps=4, callbacks=[Remember()])
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2])
    assert weights[3].isfinite().all() and not torch.equal(weights[2], weights[3])
    assert stage.engine.bad_steps.count == 2


def test_a_worker_that_dies_ends_the_training(data, tmp_path, moments, capsys):
    """As the system's memory killer ends one: no other one is waited for, and nothing is lost."""

    def kill(trainer):
        multiprocessing.active_children()[0].kill()

    moments["end", 10] = kill
    assert call("stage1", tmp_path, data, MOMENTS, "loader.num_workers=2") == 1
    (line,) = (ln for ln in capsys.readouterr().err.splitlines() if ln.startswith("m3dt: "))
    assert "a process that prepares batches died: DataLoader worker" in line
    assert "loader.num_workers=0" in line
    assert not multiprocessing.active_children()
    moments.clear()
    assert call("stage1", tmp_path, data, MOMENTS) == 0


def test_what_workers_cannot_send_ends_the_training(data, tmp_path, monkeypatch, capsys):
    """As with a full /dev/shm, which `multiprocessing` prints, then waits for ever."""

    def full(storage):
        raise RuntimeError("unable to allocate shared memory: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    assert call("stage1", tmp_path, data, "loader.num_workers=2") == 1
    (line,) = (ln for ln in capsys.readouterr().err.splitlines() if ln.startswith("m3dt: "))
    assert "died: RuntimeError: unable to allocate shared memory: No space left" in line
    assert not multiprocessing.active_children()


def test_memory_that_cannot_be_shared_is_known_before(data, tmp_path, monkeypatch, capsys):
    def refuse():
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(multiprocessing, "Queue", refuse)
    assert call("stage1", tmp_path, data, "loader.num_workers=2") == 2
    (line,) = (ln for ln in capsys.readouterr().err.splitlines() if ln.startswith("m3dt: "))
    assert "loader.num_workers=2" in line and "/dev/shm (Read-only file system)" in line


def test_two_checkpoints_are_kept(tmp_path):
    """Also those of earlier processes, and those written on a signal, do not pile up."""
    for step in (1, 9, 10, 11):
        AtomicCheckpointIO().save_checkpoint({"step": step}, tmp_path / f"step{step}.ckpt")
        remove_older(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step10.ckpt", "step11.ckpt"]
    assert newest_checkpoint(tmp_path).name == "step11.ckpt"
    whole = (tmp_path / "step11.ckpt").read_bytes()
    (tmp_path / "step11.ckpt").write_bytes(whole[:-30])
    assert newest_checkpoint(tmp_path).name == "step10.ckpt"


def test_a_checkpoint_with_a_flipped_byte_is_passed_over_or_whole(tmp_path):
    """Wherever the byte is in the archive's own fields: zipfile has many errors for it."""
    AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "step1.ckpt")
    whole = (tmp_path / "step1.ckpt").read_bytes()
    fields = [*range(30), *range(len(whole) - 400, len(whole))]
    for place in fields:
        changed = bytearray(whole)
        changed[place] ^= 0x81
        (tmp_path / "step2.ckpt").write_bytes(changed)
        assert newest_checkpoint(tmp_path).name in ("step1.ckpt", "step2.ckpt")


def test_what_killed_processes_left_goes_with_a_later_training(data, tmp_path):
    """Where others may be writing, once it is an hour old; files of other names stay."""
    run = tmp_path / "run"
    kind = run / "registry" / "backbone"
    kind.mkdir(parents=True)
    old, young, foreign = (kind / n for n in (".main.01234567.tmp", ".main.89abcdef.tmp", ".a.tmp"))
    for path in (old, young, foreign):
        path.mkdir()
    os.utime(old, (0, 0))
    os.utime(foreign, (0, 0))
    assert call("stage1", run, data, "stage1.max_steps=1") == 0
    assert [path.exists() for path in (old, young, foreign)] == [False, True, True]


def test_a_malicious_checkpoint_of_a_run_executes_nothing(data, tmp_path, capsys):
    """A run's folder may come from somebody else."""
    run, witness = tmp_path / "run", tmp_path / "witness"

    class Evil:
        def __reduce__(self):
            return Path.touch, (witness,)

    folder = run / "checkpoints" / "stage1"
    folder.mkdir(parents=True)
    torch.save({"state_dict": Evil()}, folder / "step2.ckpt")
    assert call("stage1", run, data) == 2
    assert "not a checkpoint of m3dt" in capsys.readouterr().err and not witness.exists()
    (folder / "settings.json").write_text("[")
    assert call("stage1", run, data) == 2
    assert "settings.json: damaged" in capsys.readouterr().err


def test_a_stage_that_is_training_is_not_trained_twice(finished, data, tmp_path, capsys):
    """Two processes would overwrite each other's checkpoints: the second is refused.

    The first is stopped meanwhile, and holds its lock.
    """
    run = tmp_path / "run"
    process = Command(["stage1", *QUICK, f"data={data}", f"run={run}"])
    wait_for(lambda: (run / "checkpoints" / "stage1" / "settings.json").is_file())
    process.send_signal(signal.SIGSTOP)
    assert call("stage1", run, data, "seed=5") == 2
    assert "another m3dt is writing here" in capsys.readouterr().err
    assert "seed: 0" in (run / "config.yaml").read_text()
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 0, process.output
    backbones = [Registry(folder).get("backbone", "main") for folder in (run, finished)]
    assert backbones[0].hash == backbones[1].hash


def test_interrupted_run_refuses_other_settings(data, tmp_path, monkeypatch, capsys):
    """Seed, batch, devices, data: refused by name; forced, it goes on and says so for good."""
    run, short = tmp_path / "run", ["stage1.max_steps=2", "stage1.checkpoint_every=1"]
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "save", interrupt)
        assert call("stage1", run, data, *short) == 130
    for setting, told in (
        ("seed=5", "seed was 0, is 5"),
        ("loader.batch_size=2", "loader.batch_size was 4, is 2"),
        ("trainer.devices=2", "trainer.devices was 1, is 2"),
    ):
        assert call("stage1", run, data, *short, setting) == 2
        message = capsys.readouterr().err
        assert told in message and "force=true" in message
    other = shutil.copytree(data, tmp_path / "other")
    index = json.loads((other / "dataset.json").read_text())
    next(iter(index["tasks"].values()))["sha256"] = 64 * "0"
    (other / "dataset.json").write_text(json.dumps(index))
    assert call("stage1", run, other, *short) == 2
    assert "dataset was " in capsys.readouterr().err
    assert call("stage1", run, data, *short, "model.n_embd=32", "force=true") == 2
    assert "cannot go on with another model" in capsys.readouterr().err
    slower = ["stage1.learning_rate=1e-9", "stage1.max_steps=4", "force=true"]
    assert call("stage1", run, data, *short, "loader.batch_size=2", *slower) == 0
    assert "goes on with other settings" in capsys.readouterr().out
    metrics = Registry(run).get("backbone", "main").metrics
    (forced,) = metrics["forced"]
    assert "loader.batch_size was 4, is 2" in forced and "learning_rate was" in forced


def test_a_forced_learning_rate_is_taken(data, tmp_path, monkeypatch):
    """A checkpoint brings its optimiser's rate; the configuration's goes before it."""
    run, short = tmp_path / "run", ["stage1.max_steps=2", "stage1.checkpoint_every=1"]
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "save", interrupt)
        assert call("stage1", run, data, *short) == 130
    (path,) = (run / "checkpoints" / "stage1").glob("step2.ckpt")
    before = torch.load(path, weights_only=False)["state_dict"]
    still = ["stage1.learning_rate=1e-30", "stage1.max_steps=4", "force=true"]
    assert call("stage1", run, data, *still) == 0
    registry = Registry(run)
    after = registry.tensors(registry.get("backbone", "main"))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name.removeprefix("model.")], tensor, rtol=0, atol=1e-9)
