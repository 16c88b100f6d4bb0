"""Parts of a job that several processes or machines share: `i/n` is part i of n, from 0."""

import re

from m3dt.utils.errors import UserError

ALL = "0/1"  # the whole job


def parse_shard(text: str) -> tuple[int, int]:
    """Return i and n of what follows `--shard`.

    Raises:
        UserError: It does not read i/n with 0 <= i < n.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if index >= count:
        raise UserError(f"--shard {text}: must read i/n with 0 <= i < n, such as 0/4")
    return index, count
