"""Registries whose entries and tensors are well formed but not those that a training wrote."""

import json
import os
import shutil

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fuzz.checks import digest_of
from fuzz.sound_run import MODELS
from fuzz.values import JSON, mutated
from m3dt.runs import Entry

FIELDS = (
    "kind", "name", "settings", "parents", "dataset", "seed", "step", "metrics", "tasks", "files",
    "versions", "commit", "digest",
)  # fmt: skip
DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
VALUES = (float("nan"), float("inf"), 3e38, -1e30, 1e-40, 0.0, 1.5, -1.0, 1e6)


def make_wrong(data, run, other):
    """Change one or two things of a run's registry; `other` is a run of another seed."""
    for _ in range(data.draw(st.integers(1, 2))):
        data.draw(st.sampled_from(CHANGES))(data, run / "registry", other / "registry")
    settled = data.draw(st.sampled_from(["nothing", "files", "parents"]))
    if settled != "nothing":
        settle(run / "registry", parents=settled == "parents")


def settle(registry, parents):
    """Give entries the checksums of their files as they are now, and of their parents if asked."""
    hashes = {}
    for key in MODELS:  # parents before their children, but for the groups
        weights = registry / key / "weights.safetensors"
        if weights.is_file() and not weights.is_symlink():
            hashes[key] = digest_of(weights)
    for key in MODELS:
        path = registry / key / "entry.json"
        if not path.is_file() or path.is_symlink():
            continue
        try:
            content = json.loads(path.read_text())
            for name in content["files"]:
                content["files"][name] = digest_of(path.parent / name)
            if parents:
                own = content["parents"]
                content["parents"] = {name: hashes.get(name, own[name]) for name in own}
            path.write_text(json.dumps(vars(Entry(**content).sealed())))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue  # it has no form that could be settled


def some_folder(data, registry):
    return registry / data.draw(st.sampled_from(MODELS))


def some_file(data, registry):
    files = sorted(registry.glob("*/*/*.*"))
    return data.draw(st.sampled_from(files)) if files else registry / "backbone"


def content_of(path):
    """Return the fields of an entry, or None if an earlier change has left none."""
    try:
        content = json.loads(path.read_text()) if path.is_file() else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def change_entry(data, registry, other):
    """Replace a field, a setting, a parent or a file of an entry by any value."""
    path = some_folder(data, registry) / "entry.json"
    content = content_of(path)
    if content is None:
        return
    target, name = content, data.draw(st.sampled_from(FIELDS))
    while isinstance(target.get(name), dict) and target[name] and data.draw(st.booleans()):
        target = target[name]
        name = data.draw(st.sampled_from(sorted(target)))
    before = target.get(name)
    value = data.draw(st.one_of(JSON, st.integers(-1, 5), st.booleans()))
    if isinstance(before, list) and data.draw(st.booleans()):
        value = data.draw(st.permutations(before)) + before[: data.draw(st.integers(0, 1))]
    if data.draw(st.integers(0, 3)):
        target[name] = value
    else:
        target.pop(name, None)
    path.write_text(json.dumps(content))


def reorder_tasks(data, registry, other):
    """List the tasks in another order, in the settings too."""
    for key in data.draw(st.sampled_from([MODELS, MODELS[:1], MODELS[-1:]])):
        path = registry / key / "entry.json"
        content = content_of(path)
        if content is not None:
            for holder in (content, content.get("settings")):
                if isinstance(holder, dict) and isinstance(holder.get("tasks"), list):
                    holder["tasks"].reverse()
            path.write_text(json.dumps(content))


def change_tensor(data, registry, other):
    """Change the values, type, shape or name of a tensor."""
    files = [p for p in sorted(registry.glob("*/*/*.safetensors")) if p.is_file()]
    if not files:
        return
    path = data.draw(st.sampled_from(files))
    try:
        tensors = load_file(path)
    except Exception:  # an earlier change
        return
    if not tensors:
        return
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors.pop(name)
    kind = data.draw(st.sampled_from(["value", "value", "type", "shape", "name", "none", "more"]))
    if kind == "value" and tensor.numel():
        place = data.draw(st.integers(0, tensor.numel() - 1))
        value = data.draw(st.sampled_from(VALUES))
        numbers = tensor.is_floating_point()
        tensor.view(-1)[place] = value if numbers or abs(value) < 2**40 else 7
    elif kind == "type":
        tensor = tensor.to(data.draw(st.sampled_from(DTYPES)))
    elif kind == "shape":
        shapes = [tensor[:-1], torch.cat([tensor, tensor]), tensor[None], tensor.flatten()[:0]]
        shapes.append(tensor.flatten())
        tensor = data.draw(st.sampled_from(shapes)) if tensor.ndim else tensor[None]
    if kind != "none":
        tensors[f"{name}x" if kind == "name" else name] = tensor.contiguous()
    if kind == "more":
        tensors["more"] = torch.ones(2)
    save_file({key: value.clone() for key, value in tensors.items()}, path)


def swap_files(data, registry, other):
    """Put a file of one entry into another's place."""
    one, two = some_file(data, registry), some_file(data, registry)
    if one.is_file() and two.is_file() and one != two:
        content = one.read_bytes()
        if data.draw(st.booleans()):
            one.write_bytes(two.read_bytes())
        two.write_bytes(content)


def swap_folders(data, registry, other):
    """Put an entry into another's place, or remove it."""
    one, two = some_folder(data, registry), some_folder(data, registry)
    if not one.is_dir() or one.is_symlink():
        return
    if one == two:
        shutil.rmtree(one)
    elif two.is_dir():
        third = one.with_name("third")
        for source, target in ((one, third), (two, one), (third, two)):
            source.rename(target)


def mix_generations(data, registry, other):
    """Take some models, or single files of them, from a run of another seed."""
    for key in data.draw(st.sets(st.sampled_from(MODELS), min_size=1, max_size=3)):
        if not (registry / key).is_dir() or (registry / key).is_symlink():
            continue  # such as a FIFO, which removing a folder would open
        if data.draw(st.booleans()):
            shutil.rmtree(registry / key, ignore_errors=True)
            shutil.copytree(other / key, registry / key, dirs_exist_ok=True)
        else:
            name = data.draw(st.sampled_from(["entry.json", "weights.safetensors"]))
            target = registry / key / name
            if target.is_file() and not target.is_symlink():
                shutil.copyfile(other / key / name, target)


def damage_bytes(data, registry, other):
    path = some_file(data, registry)
    if path.is_file():
        path.write_bytes(mutated(data, path.read_bytes()))


def replace_file(data, registry, other):
    """Put a FIFO, folder, link, empty file or nothing in the place of a file or folder."""
    path = some_file(data, registry)
    path = path if data.draw(st.integers(0, 3)) else path.parent
    kind = data.draw(st.sampled_from(["FIFO", "folder", "nothing", "circle", "empty", "link"]))
    if not path.exists() or path.is_symlink():
        return
    if kind == "link":  # to another place with the same content
        moved = registry.parent / f"moved-{path.name}"
        path.rename(moved)
        path.symlink_to(moved)
        return
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "circle":
        path.symlink_to(path)
    elif kind == "empty":
        path.touch()


CHANGES = (
    change_entry, change_entry, reorder_tasks, change_tensor, change_tensor, swap_files,
    swap_folders, mix_generations, damage_bytes, replace_file,
)  # fmt: skip
