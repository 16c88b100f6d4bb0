"""How computations run fast on a device; what they compute stands in `models` and `stages`.

One call of `training_step` takes a chunk of optimiser steps. `Engine` is all that a stage knows.
"""

from m3dt.engine.engine import Engine

__all__ = ["Engine"]
