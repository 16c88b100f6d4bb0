"""How computations run fast on a device; what they compute stands in `models` and `stages`.

One call of `training_step` takes a chunk of optimiser steps. `engine.Engine` is all that a stage
knows. Acting takes `graph` alone, and so waits for no import of Lightning.
"""
