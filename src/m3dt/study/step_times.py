"""What was measured of the time that steps take on one card, each number with its source.

`m3dt.study.durations` scales these numbers to other sizes.
"""

from typing import NamedTuple


class Measured(NamedTuple):
    """The seconds of an optimiser step; `segments` are those of all experts."""

    kind: str
    experts: int
    segments: int
    compiled: bool
    seconds: float
    source: str


_STEPS = "a prototype of the engine, one CUDA graph per step: H200, torch 2.11, bf16-mixed"
_WIDE = f"{_STEPS}; experts as one wide network"
MEASURED = (
    Measured("backbone", 0, 16, False, 2.2e-3, _STEPS),
    Measured("backbone", 0, 16, True, 1.5e-3, _STEPS),
    Measured("backbone", 0, 128, True, 3.8e-3, f"{_STEPS}; 16 tasks x 8"),
    Measured("experts", 40, 640, True, 13.5e-3, _STEPS),
    Measured("router", 40, 16, False, 8.3e-3, _WIDE),
    Measured("router", 40, 16, True, 4.5e-3, _WIDE),
    Measured("router", 40, 64, False, 16.9e-3, _WIDE),
)
"""Width 256, 6 layers, K 20, prompt 20, dropout 0.1."""

COMPILING = {"backbone": 18.0, "router": 43.0, "experts": 43.0}
"""Seconds before the first compiled step: the same prototype. That of experts was not measured; it
is taken to be the router's."""

START = 13.0 + 1.4
"""Seconds from the shell to the data, on two busy CPU cores, and of the data's way to the card."""

ENVIRONMENT_STEPS = 3600.0
"""Per second: 160 tasks x 4 episodes, the backbone, H200 and 16 cores. The lowest of several; the
highest was 5,800."""

ONE_EXPERT = 828 / 513
"""Operations of an action with one expert, relative to the backbone's: docs/routing.md."""

PROMPT_ROUTER = 30.0 / 2000
"""Seconds per step of the router by prompts, on one CPU core: docs/routing.md, at most 30 s."""

CPU_RATIOS = {
    ("m3dt-ungrouped", "stage3"): 16.40 / 8.21,  # experts train with the router
    ("m3dt-unfrozen-random", "stage3"): 16.40 / 8.21,
    ("m3dt-unfrozen-gradient", "stage3"): 16.40 / 8.21,
    ("m3dt-end-to-end", "train"): 14.80 / 8.21,
    ("m3dt-top-k", "stage3"): 8.38 / 8.21,
    ("m3dt-big-experts", "stage2"): 0.48 / 0.39,
    ("m3dt-big-experts", "stage3"): 5.25 / 8.21,
}
"""Seconds per step by method and command, relative to the same stage of M3DT: docs/methods.md, the
large size, on a CPU."""
