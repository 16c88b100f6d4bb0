"""What earlier commands left in a run's folder: scores, journals of episodes, checkpoints."""

import json

import torch
from hypothesis import strategies as st

from fuzz.values import JSON, mutated

NUMBERS = (0, -1, 5, 100, 1.5, 1e300, float("nan"), float("inf"), "x", None, True, [], {})


def change_value(data, value):
    """Return a JSON value with something inside it replaced, removed or doubled."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 5)):
        key = data.draw(st.sampled_from(sorted(value)))
        if not data.draw(st.integers(0, 5)):
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: change_value(data, value[key])}
    if isinstance(value, list) and value and data.draw(st.integers(0, 5)):
        place = data.draw(st.integers(0, len(value) - 1))
        if not data.draw(st.integers(0, 5)):
            return value[:place] + data.draw(st.integers(0, 2)) * [value[place]]
        return [change_value(data, v) if i == place else v for i, v in enumerate(value)]
    return data.draw(st.one_of(st.sampled_from(NUMBERS), JSON))


def wrong_results(data, folder):
    """Change the stored scores of a run, or put a changed journal in their place.

    Args:
        data: Of hypothesis.
        folder: With results and journals.
    """
    (scores,) = folder.glob("router.*.json")
    (journal,) = folder.glob("router.*.episodes.jsonl")
    if data.draw(st.booleans()):
        journal.unlink()
        changed, parts = scores, [json.loads(scores.read_text())]
    else:
        scores.unlink()
        changed = journal
        parts = [json.loads(line) for line in journal.read_text().splitlines() if line]
    if data.draw(st.integers(0, 4)):
        place = data.draw(st.integers(0, len(parts) - 1))
        parts[place] = change_value(data, parts[place])
        changed.write_text("".join(f"{json.dumps(part)}\n" for part in parts))
    else:
        changed.write_bytes(mutated(data, changed.read_bytes()))


def wrong_checkpoints(data, folder):
    """Change the checkpoints or the settings of an interrupted training.

    Returns whether what is changed is a number within a checkpoint that reads as one: nobody can
    tell it from what the training wrote.
    """
    kind = data.draw(st.sampled_from(["settings", "bytes", "content", "content", "name", "swap"]))
    checkpoints = sorted(folder.glob("step*.ckpt"))
    path = data.draw(st.sampled_from(checkpoints))
    if kind == "settings":
        file = folder / "settings.json"
        file.write_text(json.dumps(change_value(data, json.loads(file.read_text()))))
    elif kind == "bytes":
        path.write_bytes(mutated(data, path.read_bytes()))
    elif kind == "name":
        words = ("step0", "step3", "step99999", "stepx", "step-1", "step04", "step")
        path.rename(path.with_name(data.draw(st.sampled_from(words)) + ".ckpt"))
    elif kind == "swap":
        checkpoints[0].write_bytes(checkpoints[-1].read_bytes())
    else:
        content = torch.load(path, weights_only=True)
        torch.save(_changed(data, content), path)
    return kind in ("content", "name", "swap")


def _changed(data, content):
    """Return the content of a checkpoint with something inside it replaced or removed."""
    if isinstance(content, dict) and content and data.draw(st.integers(0, 9)):
        key = data.draw(st.sampled_from(list(content)))
        if not data.draw(st.integers(0, 5)):
            return {k: v for k, v in content.items() if k != key}
        return {k: _changed(data, v) if k == key else v for k, v in content.items()}
    if isinstance(content, list) and content and data.draw(st.integers(0, 9)):
        return [_changed(data, content[0]), *content[1:]]
    if isinstance(content, torch.Tensor) and content.numel() and data.draw(st.booleans()):
        value = data.draw(st.sampled_from([0.0, 1.0, -3.0, 1e30, float("nan"), float("inf")]))
        if content.is_floating_point():
            return torch.full_like(content, value)
        return (
            content[None] if data.draw(st.booleans()) else content[:0] if content.ndim else -content
        )
    values = (*NUMBERS, torch.ones(3), torch.zeros(2, 2, dtype=torch.int64))
    return data.draw(st.sampled_from(values))
