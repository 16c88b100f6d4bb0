"""Experts spread over processes and devices, and one that was lost."""

import shutil

import torch
from quick_run import call

from m3dt.runs.registry import Registry
from m3dt.training.multi_device import shards_of


def test_a_lost_expert_is_trained_again_alone(finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    kept = Registry(run).get("expert", "0")
    shutil.rmtree(run / "registry" / "expert" / "1")
    assert call("stage2", run, data) == 0
    registry, old = Registry(run), Registry(finished)
    assert registry.get("expert", "0") == kept
    again, before = (r.tensors(r.get("expert", "1")) for r in (registry, old))
    for name, tensor in before.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-4)


def test_shards_share_the_experts(finished, data, tmp_path):
    run = tmp_path / "run"
    for kind in ("backbone", "grouping"):
        shutil.copytree(finished / "registry" / kind, run / "registry" / kind)
    assert call("stage2", run, data, "stage2.shard=1/2") == 0
    assert [e.key for e in Registry(run).entries() if e.kind == "expert"] == ["expert/1"]
    assert call("stage2", run, data, "stage2.shard=0/2") == 0
    assert call("stage3", run, data, "stage3.max_steps=2") == 0


def test_devices_take_different_experts(finished, data, tmp_path, capfd):
    """Two processes without DDP; one that fails takes no other with it and is done again alone."""
    run = tmp_path / "run"
    for kind in ("backbone", "grouping"):
        shutil.copytree(finished / "registry" / kind, run / "registry" / kind)
    blocked = run / "checkpoints" / "stage2-1-of-2"
    blocked.parent.mkdir()
    blocked.write_text("a file in place of a folder")
    two = ["trainer.devices=2", "trainer.strategy=ddp"]
    assert call("stage2", run, data, *two) == 1
    assert "shards 1/2 (exit code" in capfd.readouterr().err
    registry = Registry(run)
    first = registry.get("expert", "0")
    blocked.unlink()
    assert call("stage2", run, data, *two) == 0
    assert registry.get("expert", "0") == first
    for name in ("0", "1"):
        mine, theirs = (r.tensors(r.get("expert", name)) for r in (registry, Registry(finished)))
        for key, tensor in theirs.items():
            torch.testing.assert_close(mine[key], tensor, rtol=0, atol=1e-4)
    assert "shard: 0/1" in (run / "config.yaml").read_text()


def test_shards_divide_further():
    """Four devices of job 1 of 2: every odd expert once."""
    shards = [tuple(map(int, s.split("/"))) for s in shards_of("1/2", 4)]
    taken = [k for i, n in shards for k in range(24) if k % n == i]
    assert sorted(taken) == list(range(1, 24, 2))
