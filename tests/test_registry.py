"""The registry: round trips, verification, lineage."""

import errno
import io
import json
import os
import re
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from m3dt.cli import main
from m3dt.config import ModelConfig
from m3dt.models import PromptDT, add_mixtures
from m3dt.runs import build_model, check_parent, load_expert
from m3dt.runs.entries import Entry
from m3dt.runs.registry import Registry
from m3dt.utils.errors import RunError, UserError
from m3dt.utils.files import sha256, sole_writer

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


def test_a_model_that_was_copied_in_part_is_not_passed_over(tmp_path):
    """Else `m3dt.load` would take the next kind: one expert in place of the router."""
    registry = Registry(tmp_path)
    for kind, name in (("backbone", "main"), ("router", "prompt")):
        registry.save(entry(kind, name), {"w": torch.arange(3.0)})
    (tmp_path / "registry/router/prompt/entry.json").unlink()
    with pytest.raises(UserError, match="router/prompt: lacks entry.json"):
        registry.entries()
    (tmp_path / "registry/router/prompt/weights.safetensors").unlink()
    assert [e.key for e in registry.entries()] == ["backbone/main"]


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
        expert = registry.save(entry("expert", str(k)), expert_weights(float(k)))
        load_expert(model, k, registry, expert)
    assert model.mixtures[0].experts.c_fc_bias[:, 0].tolist() == [0, 1, 2]


def test_lineage_is_written(tmp_path):
    registry = Registry(tmp_path)
    backbone = save_backbone(registry)
    registry.save(entry("expert", "0", [backbone]), expert_weights())
    written = json.loads((tmp_path / "registry/expert/0/entry.json").read_text())
    assert written["parents"] == {"backbone/main": backbone.hash}
    assert {"python", "torch", "m3dt"} <= set(written["versions"])
    assert (written["seed"], written["step"], written["dataset"]) == (0, 5, "data")


def test_weights_that_are_not_finite_are_not_registered(tmp_path):
    registry = Registry(tmp_path)
    for tensors in ({"w": torch.tensor([1.0, float("nan")])}, {"w": torch.full((3,), torch.inf)}):
        with pytest.raises(RunError, match="numbers of w (is|are) not finite"):
            registry.save(entry("backbone", "main"), tensors)
    with pytest.raises(RunError, match="1 number of best_return is not finite in its tasks"):
        own = {"best_return": torch.tensor([torch.nan])}
        registry.save(entry("backbone", "main"), {"w": torch.ones(1)}, tasks=own)
    assert registry.find("backbone", "main") is None
    assert not list(tmp_path.rglob("*.safetensors"))


def test_registered_weights_that_are_not_finite_are_not_read(tmp_path):
    """As an earlier version may have registered them."""
    registry = Registry(tmp_path)
    saved = registry.save(entry("backbone", "main"), {"w": torch.ones(3)})
    save_file({"w": torch.tensor([1.0, torch.inf, 1.0])}, registry.file(saved))
    with pytest.raises(UserError, match="1 of 3 numbers of w is not finite"):
        registry.tensors(saved)


def edited(change):
    """Return what changes an entry's content, and seals it again as its writer would."""

    def apply(content):
        change(content)
        return asdict(Entry(**content).sealed())

    return apply


ODD = {
    "a list": (lambda c: [], "holds a list"),
    "text": (lambda c: "entry", "holds text"),
    "no tasks": (lambda c: {k: v for k, v in c.items() if k != "tasks"}, "lacks 'tasks'"),
    "another field": (lambda c: {**c, "more": 1}, "unknown field 'more'"),
    "empty settings": (edited(lambda c: c.update(settings={})), "no section 'model'"),
    "settings as text": (lambda c: {**c, "settings": "x"}, "settings: is text, not a mapping"),
    "model as text": (edited(lambda c: c["settings"].update(model="x")), "no section 'model'"),
    "parents as a list": (lambda c: {**c, "parents": []}, "parents: is a list, not a mapping"),
    "parents of numbers": (lambda c: {**c, "parents": {"a": 1}}, "parents: holds something"),
    "a parent without hash": (
        edited(lambda c: c.update(parents={"backbone/main": "x"})), "is no name with its SHA-256"),
    "a file elsewhere": (
        edited(lambda c: c["files"].update({"../../w": "0" * 64})), "is no name with its SHA-256"),
    "no weights": (edited(lambda c: c["files"].pop("weights.safetensors")), "lists no weights"),
    "a width as text": (
        edited(lambda c: c["settings"]["model"].update(n_embd="8")), "n_embd is text"),
    "a width of a half": (
        edited(lambda c: c["settings"]["model"].update(n_embd=8.0)), "n_embd is a number"),
    "a setting unknown": (
        edited(lambda c: c["settings"]["model"].update(depth=2)), "unknown key 'model.depth'"),
    "a width below 1": (
        edited(lambda c: c["settings"]["model"].update(n_embd=0)), "n_embd=0 must be 1 or more"),
    "a step that is no number": (lambda c: {**c, "step": "5"}, "step: is text"),
    "a step below 0": (lambda c: {**c, "step": -5}, "step: is negative"),
    "a task twice": (edited(lambda c: c["tasks"].append("reach-v2")), "one is there twice"),
    "another name": (lambda c: {**c, "name": "other"}, "describes backbone/other"),
    "other tasks than trained": (
        edited(lambda c: c["settings"].update(tasks=["push-v2"])), "tasks: are not those"),
    "more heads, by hand": (
        lambda c: {**c, "settings": {"model": {**c["settings"]["model"], "n_head": 2}}},
        "changed after it was written"),
    "another task, by hand": (lambda c: {**c, "tasks": ["push-v2"]}, "changed after it was"),
}  # fmt: skip


@pytest.mark.parametrize("form", ODD)
def test_odd_entries_are_one_message(form, tmp_path):
    change, message = ODD[form]
    registry = Registry(tmp_path)
    save_backbone(registry)
    path = tmp_path / "registry/backbone/main/entry.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        registry.find("backbone", "main")
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (None, "groups are no lists of tasks"),
        (["reach-v2"], "groups are no lists of tasks"),
        ([["reach-v2"], ["push-v2"]], "groups do not hold each task once"),
        ([["reach-v2"], ["reach-v2"]], "groups do not hold each task once"),
        ([[], [3]], "groups do not hold each task once"),
    ],
)
def test_task_groups_hold_each_task_once(groups, message, tmp_path):
    registry = Registry(tmp_path)
    odd = replace(entry("grouping", "main"), metrics={"groups": groups})
    registry.save(odd, {"labels": torch.zeros(1)})
    with pytest.raises(UserError, match=message):
        registry.find("grouping", "main")
    registry.save(replace(odd, metrics={"groups": [[], ["reach-v2"]]}), {"labels": torch.zeros(1)})
    assert registry.find("grouping", "main").metrics["groups"][1] == ["reach-v2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("embed_ln.weight"), "lacks embed_ln.weight"),
        (lambda w: w.update(more=torch.ones(1)), "more has no place"),
        (lambda w: w.update({"embed_ln.weight": torch.ones(9)}), r"has shape \(9,\), not \(8,\)"),
        (lambda w: w.update({"embed_ln.weight": torch.ones(8, dtype=int)}), "holds torch.int64"),
    ],
)
def test_tensors_of_another_model_are_refused(change, message, tmp_path):
    registry = Registry(tmp_path)
    weights = PromptDT(MODEL).state_dict()
    change(weights)
    root = registry.save(entry("backbone", "main"), weights)
    with pytest.raises(UserError, match=message):
        build_model(registry, root, root)


def test_a_width_beyond_memory_is_compared_before_it_is_allocated(tmp_path):
    registry = Registry(tmp_path)
    wide = {**SETTINGS, "model": {**SETTINGS["model"], "n_embd": 2**14}}
    described = replace(entry("backbone", "main"), settings=wide)
    root = registry.save(described, PromptDT(MODEL).state_dict())
    with pytest.raises(UserError, match="has shape"):
        build_model(registry, root, root)


@pytest.mark.parametrize(
    ("claimed", "message"),
    [
        ({"training": "frozen_experts"}, "has 0 of 1000000000 experts"),
        ({"training": "ungrouped"}, "has shape"),
        ({"training": "ungrouped", "expert": "trunk"}, "tensors for 1000000000 experts"),
    ],
)
def test_experts_beyond_memory_are_compared_before_they_are_allocated(claimed, message, tmp_path):
    """A router may say in its entry how many experts it has."""
    registry = Registry(tmp_path)
    backbone = save_backbone(registry)
    model = PromptDT(MODEL)
    add_mixtures(model, 2, routed=True)
    weights = {f"0.{name}": tensor for name, tensor in model.mixtures[0].state_dict().items()}
    settings = {**SETTINGS, "moe": {"num_experts": 10**9, **claimed}}
    described = replace(entry("router", "main", [backbone]), settings=settings)
    with pytest.raises(UserError, match=message):
        build_model(registry, backbone, registry.save(described, weights))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("file", ["entry.json", "weights.safetensors"])
def test_a_refusal_of_the_system_is_no_damage(code, file, tmp_path, monkeypatch):
    """Nobody is told to delete what only the system would not read."""
    registry = Registry(tmp_path)
    save_backbone(registry)
    real = io.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith(file):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(io, "open", refuse)
    for read in (lambda: registry.find("backbone", "main"), registry.entries):
        with pytest.raises(UserError, match=os.strerror(code)) as refused:
            read()
        assert file in str(refused.value) and "Delete" not in str(refused.value)


@pytest.mark.parametrize("file", ["entry.json", "weights.safetensors"])
def test_a_pipe_in_a_registry_is_not_waited_for(file, tmp_path):
    registry = Registry(tmp_path)
    save_backbone(registry)
    path = tmp_path / "registry/backbone/main" / file
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=f"{file}: is a FIFO"):
        registry.find("backbone", "main")
    path.unlink()
    if file == "weights.safetensors":
        with pytest.raises(UserError, match=f"lacks {file}"):
            registry.find("backbone", "main")


@pytest.mark.parametrize("kind", ["FIFO", "file", "link", "circle"])
def test_a_model_takes_the_place_of_what_is_no_folder(kind, tmp_path):
    """Nothing waits for a FIFO, and the folder that a link leads to stays as it is."""
    registry, place = Registry(tmp_path), tmp_path / "registry/backbone/main"
    place.parent.mkdir(parents=True)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").touch()
    if kind == "FIFO":
        os.mkfifo(place)
    elif kind == "file":
        place.touch()
    else:
        place.symlink_to(tmp_path / "theirs" if kind == "link" else place)
    saved = save_backbone(registry)
    assert place.is_dir() and not place.is_symlink()
    assert registry.get("backbone", "main") == saved
    assert (tmp_path / "theirs" / "file").exists()
    assert not list(place.parent.glob(".*.tmp"))


def test_a_registry_that_may_not_be_listed_is_not_empty(tmp_path, monkeypatch):
    registry = Registry(tmp_path)
    save_backbone(registry)

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        registry.entries()


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_files_have_the_modes_of_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        saved = save_backbone(Registry(tmp_path / "a"))
        Registry(tmp_path / "b").adopt(Registry(tmp_path / "a"), saved)
        with sole_writer(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask, path


def test_a_folder_is_locked_whatever_the_umask(tmp_path):
    before = os.umask(0o777)
    try:
        with sole_writer(tmp_path):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o600


def test_the_commit_is_of_this_package_in_a_hook_of_another(tmp_path, monkeypatch):
    """Git sets GIT_DIR for its hooks."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    own = Registry(tmp_path / "a").save(entry("backbone", "main"), {"w": torch.ones(1)}).commit
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    hooked = Registry(tmp_path / "b").save(entry("backbone", "main"), {"w": torch.ones(1)}).commit
    assert hooked == own


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    saved = save_backbone(Registry(tmp_path / "run"))
    assert Registry("~/run").get("backbone", "main") == saved


def test_a_list_of_models_names_a_file_that_holds_no_tensors(tmp_path, capsys):
    """Its checksum is that of the entry, so only reading it tells."""
    registry = Registry(tmp_path)
    saved = registry.save(entry("backbone", "main"), {"w": torch.arange(3.0)})
    path = registry.file(saved)
    path.write_text("no tensors")
    files = {path.name: sha256(path)}
    (path.parent / "entry.json").write_text(json.dumps(asdict(saved.sealed(files=files))))
    assert main(["registry", str(tmp_path)]) == 2
    assert f"{path}: cannot be read" in capsys.readouterr().err.replace("\n", "")
