"""Seeds that are a function of what they are for, so that nothing random needs saving."""

import numpy as np


def derive_seed(*key: int) -> int:
    """Return a 63-bit seed for a key of integers, such as (seed, stage, step, rank)."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
