"""What values are sound, and what returns are usual."""

import numpy as np

from m3dt.tasks import TASKS, TaskSpec

LARGEST = 1e10  # MuJoCo stops a simulation whose state exceeds it
# Between what the best return of a task's episodes lies; outside, rewards have another unit.
# The highest values are Meta-World's and DMControl's bounds; the others are generous.
_BEST_RETURNS = {
    "metaworld": (200.0, 5000.0),
    "dmcontrol": (50.0, 1000.0),
    "cheetah-vel": (-1000.0, -5.0),
    "ant-dir": (25.0, 2000.0),
}


def unsound(name: str, array: np.ndarray, largest: float = LARGEST) -> tuple[str, int] | None:
    """Return what is wrong with an array's values, and the first row where it is, or None.

    Sound values are finite and at most `largest`, positive or negative.
    """
    if not array.size or np.abs(array).max() <= largest:  # the maximum with NaN is NaN
        return None
    rows = np.atleast_1d(array)
    place = np.argwhere(~(np.abs(rows) <= largest))[0]
    value = rows[tuple(place)]
    if not np.isfinite(value):
        return f"'{name}' is not finite", int(place[0])
    return f"'{name}' holds {value:.3g}, beyond {largest:g}", int(place[0])


def unusual_returns(spec: TaskSpec, returns: np.ndarray) -> str | None:
    """Return a sentence if a task's episode returns suggest that its rewards have another unit."""
    if spec.name not in TASKS:
        return None
    low, high = _BEST_RETURNS[spec.domain]
    best = float(returns.max())
    if low <= best <= high * (1 + np.sign(high) * 0.01):
        return None
    return (
        f"{spec.name}: the best return is {best:.5g}, expected {low:g} to {high:g}, and evaluation "
        f"asks for {spec.target_return:g}. If the rewards have another unit, convert them and "
        "import again; if not, evaluation.target=data asks for the best return of the data."
    )
