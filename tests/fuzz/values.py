"""Numbers, types, JSON values and damaged bytes that several strategies draw."""

import numpy as np
from hypothesis import strategies as st

NUMBERS = st.one_of(
    st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -1e11, 1e10, 15.0, 1.0000001, -1.0, 0.0, 255]),
    st.floats(width=32),
)
TYPES = st.sampled_from(["f2", "f4", ">f4", "f8", "i4", "i8", "u1", "u8", "?", "S3", "c8"])
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from(["/etc/passwd", "../data", "push-v2.hdf5", "walker-walk.hdf5", "", "."]),
        st.just(10**400),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


def mutated(data, content):
    """Return content with a few ranges of bytes changed, deleted, doubled or truncated."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        if not content:
            break
        kind = data.draw(st.sampled_from(["flip", "cut", "double", "end"]))
        start = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(1, 40))
        if kind == "flip":
            content[start] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[start : start + length]
        elif kind == "double":
            content[start:start] = content[start : start + length]
        else:
            del content[start:]
    return bytes(content)
