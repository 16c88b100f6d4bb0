"""What a task's file may hold: the rules that opening, verifying and exporting share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from m3dt.data.format import NUM_PROMPTS, SCHEMA_VERSION, TaskEntry, quartiles, success_rate
from m3dt.data.values import LARGEST, unsound
from m3dt.utils.counts import counted

if TYPE_CHECKING:
    from m3dt.data.store import TaskStore

_CHUNK = 1_000_000  # transitions checked at a time
_INDEX_SLACK = {"return_quartiles": 0.02, "success_rate": 2e-4}  # twice their last digit
_ACTION_SLACK = 1e-6  # of actions around [-1, 1], for rounding


def value_problems(
    store: TaskStore, rows: slice, action_limit: float = 1 + _ACTION_SLACK
) -> Iterator[str]:
    """Yield one message per array with unsound values among the transitions `rows`.

    It names the first trajectory and step. Actions must lie in [-1, 1]; another limit may be given.
    """
    for name in ("observations", "actions", "rewards"):
        largest = action_limit if name == "actions" else LARGEST
        array = getattr(store, name)
        for start in range(rows.start, rows.stop, _CHUNK):
            found = unsound(name, array[start : min(start + _CHUNK, rows.stop)], largest)
            if found:
                what, row = found
                trajectory, step = store.locate(start + row)
                yield f"{what}, first in trajectory {trajectory} at step {step}"
                break


def opening_problems(store: TaskStore, attributes: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a task's file, of all that is quickly checked.

    These are the layout, whose data they are, the statistics, the returns and the prompts.
    `attributes` are those of the file. Without a sound layout, the rest is not checked.
    """
    layout = list(_layout_problems(store))
    yield from layout
    if layout:
        return
    spec = store.spec
    expected = {"schema_version": SCHEMA_VERSION, "task": spec.name, "env_id": spec.env_id}
    for name, value in expected.items():
        found = attributes.get(name, value)  # older files lack some of them
        if np.ndim(found) or found != value:
            yield f"'{name}' is {found!r:.60}, but must be {value!r}"
    for name in ("state_mean", "state_std"):
        array = getattr(store, name)
        if array.dtype.kind != "f" or array.shape != (spec.state_dim,):
            yield f"'{name}' must be {counted(spec.state_dim, 'floating-point number')}"
        elif wrong := unsound(name, array):
            yield f"{wrong[0]}, first in dimension {wrong[1]}"
        elif name == "state_std" and (array < 0).any():
            yield f"'{name}' is negative, first in dimension {int((array < 0).argmax())}"
    if wrong := unsound("episode_returns", store.episode_returns, LARGEST * spec.horizon):
        yield f"{wrong[0]}, first in trajectory {wrong[1]}"
    if store.successes.max() > 1:
        yield f"'successes' holds {store.successes.max()}, not 0 or 1"
    prompts = slice(store.num_training_steps, len(store.rewards))
    yield from value_problems(store, prompts, action_limit=LARGEST)


def index_problems(store: TaskStore, entry: TaskEntry) -> Iterator[str]:
    """Compare a task's file with its entry in the index, as far as that takes no time.

    The index was perhaps written on another machine, whose means round otherwise.
    """
    if entry.env_id != store.spec.env_id:
        yield f"env_id is {store.spec.env_id}, but the index says {entry.env_id}"
    found: dict[str, Any] = {
        "trajectories": len(store.episode_ends),
        "steps": len(store.rewards),
        "return_quartiles": quartiles(store.episode_returns),
        "success_rate": success_rate(store.successes),
    }
    if entry.success_rate is None:  # the source did not record it
        del found["success_rate"]
    for name, value in found.items():
        listed = getattr(entry, name)
        slack = _INDEX_SLACK.get(name, 0.0)
        if not np.allclose(value, listed, rtol=1e-6 * bool(slack), atol=slack):
            yield f"{name} is {value}, but the index says {listed}"


def _layout_problems(store: TaskStore) -> Iterator[str]:
    """Compare the widths with the task's, and the trajectories with the transitions."""
    steps, ends = len(store.rewards), store.episode_ends
    widths = {"observations": store.spec.state_dim, "actions": store.spec.action_dim}
    for name, width in widths.items():
        found, shape = getattr(store, name).shape, (steps, width)
        if found != shape:
            yield f"'{name}' is {found}, but {store.spec.name} has {shape}"
    ordered = len(ends) > NUM_PROMPTS and ends[0] > 0 and (ends[1:] > ends[:-1]).all()
    if not ordered or ends[-1] != steps:
        yield (
            f"'episode_ends' does not divide {counted(steps, 'step')} into trajectories, "
            f"at least {NUM_PROMPTS + 1} of one step or more"
        )
    for name in ("episode_returns", "successes"):
        if len(getattr(store, name)) != len(ends):
            values = counted(len(getattr(store, name)), "value")
            yield f"'{name}' has {values} for {counted(len(ends), 'trajectory')}"
