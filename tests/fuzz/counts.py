"""How many cases are drawn: `make faults` sets M3DT_FUZZ=all, `make test` draws a few of each."""

import os
import zlib
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzz.invariants import at_most

ALL = os.environ.get("M3DT_FUZZ") == "all"


@dataclass(frozen=True)
class Count:
    """How many cases of a strategy are drawn, and how.

    Attributes:
        all: By `make faults`.
        few: By `make test`.
        parts: Number of tests among which pytest's processes share the cases of `make faults`.
        command: Whether a case is a process of its own, as a user starts it.
    """

    all: int
    few: int
    parts: int = 1
    command: bool = False


COUNTS = {
    # In this process, 4,792:
    "wrong datasets": Count(800, 30, 2),
    "damaged datasets": Count(300, 20),
    "damaged npz": Count(180, 15),
    "wrong npz": Count(180, 15),
    "damaged promptdt": Count(180, 5),
    "damaged tdmpc2": Count(180, 15),
    "wrong minari": Count(180, 15),
    "own tasks": Count(200, 25),
    "overrides": Count(400, 40),
    "configuration files": Count(400, 40),
    "trained configurations": Count(560, 5, 4),
    "registries": Count(800, 15, 4),
    "results": Count(120, 3, 2),
    "checkpoints": Count(312, 4, 2),
    # As commands, 208:
    "environments": Count(148, 1, 6, command=True),
    "datasets as commands": Count(20, 1, 1, command=True),
    "registries as commands": Count(20, 1, 1, command=True),
    "configurations as commands": Count(20, 1, 1, command=True),
}


def parts_of(name):
    """Return the numbers of the parts into which a strategy's cases are cut."""
    return range(COUNTS[name].parts if ALL else 1)


def draw_cases(name, part, case):
    """Call `case(data)` for each case of a part, and return how many there were.

    `make faults` draws new cases each time; M3DT_FUZZ_SEED repeats those of a failure.
    """
    count = COUNTS[name]
    wanted = len(range(part, count.all, count.parts)) if ALL else count.few
    chosen = os.environ.get("M3DT_FUZZ_SEED") or (os.urandom(4).hex() if ALL else "0")
    done = 0

    # Shrinking a case that takes seconds would take an hour.
    phases = (Phase.generate,) if count.command else (Phase.generate, Phase.shrink)

    @settings(
        max_examples=wanted, deadline=None, database=None, phases=phases,
        report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @seed(zlib.crc32(f"{chosen} {name} {part}".encode()))
    @given(st.data())
    def draw(data):
        nonlocal done
        with at_most(600 if count.command else 120):
            case(data)
        done += 1

    try:
        draw()
    except BaseException as error:
        error.add_note(f"Repeat it with M3DT_FUZZ_SEED={chosen}" + " M3DT_FUZZ=all" * ALL)
        raise
    assert done >= wanted, f"{name}: {done} of {wanted} cases"
    return done
