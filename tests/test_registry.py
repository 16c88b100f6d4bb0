"""The registry: round trips, verification, lineage."""

import json

import pytest
import torch

from m3dt.config import ModelConfig
from m3dt.models import PromptDT, add_mixtures
from m3dt.runs import build_model, check_parent, load_expert
from m3dt.runs.registry import Entry, Registry
from m3dt.utils.errors import UserError

MODEL = ModelConfig(n_layer=1, n_head=1, n_embd=8)
SETTINGS = {"model": vars(MODEL), "moe": {"num_experts": 3}}


def entry(kind, name, parents=()):
    lineage = {p.key: p.hash for p in parents}
    return Entry(kind, name, SETTINGS, lineage, "data", 0, 5, {"loss": 0.5}, ["reach-v2"])


def save_backbone(registry, seed=0):
    torch.manual_seed(seed)
    model = PromptDT(ModelConfig(**SETTINGS["model"]))
    return registry.save(entry("backbone", "main"), model.state_dict())


def expert_weights(value=1.0):
    shapes = {"c_fc_weight": (8, 32), "c_fc_bias": (32,), "c_proj_weight": (32, 8)}
    shapes["c_proj_bias"] = (8,)
    return {f"0.{name}": torch.full(shape, value) for name, shape in shapes.items()}


def test_round_trip(tmp_path):
    registry = Registry(tmp_path)
    saved = registry.save(
        entry("backbone", "main"), {"w": torch.arange(3.0)}, tasks={"m": torch.ones(2)}
    )
    found = registry.get("backbone", "main")
    assert found == saved
    assert torch.equal(registry.tensors(found)["w"], torch.arange(3.0))
    assert torch.equal(registry.tensors(found, "tasks")["m"], torch.ones(2))
    assert [e.key for e in registry.entries()] == ["backbone/main"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_experts_are_listed_by_number(tmp_path):
    registry = Registry(tmp_path)
    for k in (10, 2, 0):
        registry.save(entry("expert", str(k)), expert_weights())
    assert [e.name for e in registry.entries()] == ["0", "2", "10"]


def test_flipped_byte_is_found(tmp_path):
    registry = Registry(tmp_path)
    registry.save(entry("backbone", "main"), {"w": torch.arange(300.0)})
    path = tmp_path / "registry/backbone/main/weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        registry.find("backbone", "main")


def test_damaged_entry_is_found(tmp_path):
    registry = Registry(tmp_path)
    registry.save(entry("backbone", "main"), {"w": torch.arange(3.0)})
    path = tmp_path / "registry/backbone/main/entry.json"
    whole = path.read_text()
    for damaged in (whole[:50], json.dumps({**json.loads(whole), "files": {}}), "[]"):
        path.write_text(damaged)
        with pytest.raises(UserError, match="damaged"):
            registry.find("backbone", "main")


def test_missing_entry_lists_the_others(tmp_path):
    registry = Registry(tmp_path)
    registry.save(entry("backbone", "main"), {"w": torch.arange(3.0)})
    with pytest.raises(UserError, match="backbone/main"):
        registry.get("router", "main")
    assert registry.find("router", "main") is None


def test_interrupted_write_leaves_the_old_entry(tmp_path, monkeypatch):
    registry = Registry(tmp_path)
    old = registry.save(entry("backbone", "main"), {"w": torch.zeros(3)})

    def fail(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("m3dt.runs.registry.write_json", fail)
    with pytest.raises(OSError, match="no space"):
        registry.save(entry("backbone", "main"), {"w": torch.ones(3)})
    assert registry.get("backbone", "main") == old
    assert not list(tmp_path.rglob("*.tmp"))


def test_expert_of_another_backbone_is_refused(tmp_path):
    registry = Registry(tmp_path)
    backbone = save_backbone(registry)
    expert = registry.save(entry("expert", "0", [backbone]), expert_weights())
    check_parent(registry, expert, backbone)
    assert build_model(registry, backbone, expert).num_parameters() > 0
    other = save_backbone(registry, seed=1)
    with pytest.raises(UserError, match="another backbone/main"):
        build_model(registry, other, expert)


def test_experts_are_stacked_in_order(tmp_path):
    registry = Registry(tmp_path)
    model = PromptDT(MODEL)
    add_mixtures(model, 3, routed=False)
    for k in range(3):
        expert = registry.save(entry("expert", str(k)), expert_weights(k))
        load_expert(model, k, registry.tensors(expert))
    assert model.mixtures[0].experts.c_fc_bias[:, 0].tolist() == [0, 1, 2]


def test_lineage_is_written(tmp_path):
    registry = Registry(tmp_path)
    backbone = save_backbone(registry)
    registry.save(entry("expert", "0", [backbone]), expert_weights())
    written = json.loads((tmp_path / "registry/expert/0/entry.json").read_text())
    assert written["parents"] == {"backbone/main": backbone.hash}
    assert {"python", "torch", "m3dt"} <= set(written["versions"])
    assert (written["seed"], written["step"], written["dataset"]) == (0, 5, "data")
