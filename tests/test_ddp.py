"""Two processes over gloo in place of one: the same batches, and so the same models."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from quick_run import QUICK, call, helpers_found, signal_at, wait_for
from started import ended

from m3dt.runs.registry import Registry

TWO = ("trainer.devices=2", "trainer.strategy=ddp")
SECTIONS = ("stage1", "stage2", "stage3", "prompt_router", "baseline")
TEN = tuple(f"{section}.max_steps=10" for section in SECTIONS)
# How far weights may be apart after ten steps: sums in another order, where products are rounded
# to 24 or to 8 bits. Adam's first steps have the length of the learning rate, whatever the
# gradient's: where it is about 0, its sign is a matter of rounding.
NEAR = {"32": 2e-4, "bf16-mixed": 1e-3}
# The others train by `make faults`: test_devices_take_different_experts and HarmoDT's
# test_two_processes_equal_one compare weights of stage 2 and of a baseline, too.
QUICKLY = ("stage1", "stage3", "by-prompt")
COMMANDS = (*QUICKLY, "stage2", "promptdt", "mtdt", "harmodt")


class SameOnAllRanks(pl.Callback):
    """Fails where the ranks' weights differ in one bit; trainings name it by its dotted path."""

    def on_train_end(self, trainer, stage):
        weights = torch.cat([p.detach().flatten() for p in stage.model.parameters()])
        first = trainer.strategy.broadcast(weights, src=0)
        assert trainer.world_size == 2 and torch.equal(first, weights)
        if trainer.is_global_zero:
            Path(os.environ["M3DT_TEST_WITNESS"]).write_text("the same")


def words(command, data, run, *extra):
    return [command, *QUICK, f"data={data}", f"run={run}", *extra]


@pytest.mark.parametrize(
    ("command", "precision"),
    [
        pytest.param(c, p, marks=() if c in QUICKLY and p == "32" else pytest.mark.faults)
        for p in NEAR
        for c in COMMANDS
    ],
)
def test_two_processes_equal_one(data, tmp_path, command, precision):
    """With the same global batch; only the order of sums differs.

    Stage 2 needs no DDP: each process has experts of its own.
    """
    plain = ["model.dropout=0", *TEN, f"trainer.precision={precision}"]
    plain += ["loader.validation_trajectories=1"]
    if command == "by-prompt":
        # Steps as long as the other stages': QUICK's rate is 1e-2, after a shorter warm-up.
        plain += ["moe.router=prompt", "prompt_router.learning_rate=1e-3"]
        command = "stage3"
    if not command.startswith("stage"):
        plain, command = [*plain, f"method={command}"], "train"
    alone, together = tmp_path / "alone", tmp_path / "together"
    before = {"stage2": ("stage1", "group"), "stage3": ("stage1", "stage2")}
    for earlier in before.get(command, ()):
        assert call(earlier, alone, data, *plain) == 0
    if before.get(command):
        shutil.copytree(alone / "registry", together / "registry")
    assert call(command, alone, data, *plain) == 0
    watch = [
        "callbacks.same={class: test_ddp.SameOnAllRanks,"
        " stages: [stage1, stage3, prompt_router, baseline]}",
        # One rank plays while the other waits for the next step.
        "callbacks.rollouts={class: m3dt.callbacks.RolloutCallback, stages: [stage1],"
        " every_n_steps: 5, tasks: [ant-dir-6], workers: 1}",
    ]
    result = ended(
        words(command, data, together, *plain, *TWO, *watch),
        {**helpers_found(), "M3DT_TEST_WITNESS": f"{tmp_path}/witness"},
    )
    assert result.returncode == 0, result.output[-3000:]
    assert (tmp_path / "witness").exists() == (command != "stage2")
    registries = Registry(alone), Registry(together)
    keys = [[entry.key for entry in registry.entries()] for registry in registries]
    assert keys[0] == keys[1]
    for entry in registries[0].entries():
        other = registries[1].get(entry.kind, entry.name)
        for name, tensor in registries[0].tensors(entry).items():
            found = registries[1].tensors(other)[name]
            torch.testing.assert_close(found, tensor, rtol=0, atol=NEAR[precision])
        if entry.kind not in ("grouping", "expert"):  # experts have their process's mean
            near = 1e-3 if precision == "32" else 1e-2
            for loss in ("train/loss", "val/loss"):
                assert other.metrics[loss] == pytest.approx(entry.metrics[loss], rel=near)
    if command == "stage1":
        first, second = (r.get("backbone", "main").metrics["conflict"] for r in registries)
        near = 1e-5 if precision == "32" else 1e-2
        for key in ("mean", "pairwise", "leave_one_out"):
            assert second["history"][0][key] == pytest.approx(first["history"][0][key], abs=near)


def test_a_signal_to_one_rank_ends_all(data, tmp_path):
    """All ranks stop when one gets a signal; one checkpoint, from which the run resumes."""
    run = tmp_path / "run"
    rare = ("stage1.checkpoint_every=1000000", "stage1.max_steps=40", "model.dropout=0")
    command = words("stage1", data, run, *rare, *TWO)
    cut = ended([*command, signal_at(33, signal.SIGTERM, rank=1)], helpers_found())
    assert cut.returncode == 143, cut.output
    assert "Traceback" not in cut.output
    wait_for(lambda: subprocess.run(["pgrep", "-f", f"run={run}"], capture_output=True).returncode)
    assert [p.name for p in (run / "checkpoints/stage1").glob("step*.ckpt")] == ["step33.ckpt"]
    assert ended(command).returncode == 0
    assert call("stage1", tmp_path / "whole", data, *rare) == 0
    registries = Registry(run), Registry(tmp_path / "whole")
    found, whole = (r.tensors(r.get("backbone", "main")) for r in registries)
    for name, tensor in whole.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-3)


@pytest.mark.faults
def test_a_whole_method_trains_on_two_devices(data, tmp_path):
    """Stage after stage in the same processes."""
    run = tmp_path / "run"
    done = ended(words("train", data, run, *TWO, *TEN, "moe.router=prompt"))
    assert done.returncode == 0, done.output
    kinds = [entry.key for entry in Registry(run).entries()]
    assert kinds[0] == "backbone/main" and kinds[-1] == "router/prompt"
