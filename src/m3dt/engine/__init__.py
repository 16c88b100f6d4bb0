"""How computations run fast on a device; what they compute stands in `models` and `stages`."""
