"""What the help lists: experiments, studies, methods, sizes and the keys used most."""

import textwrap

from m3dt.config import METHODS, SIZES, all_keys, shipped_confs, shipped_studies

_WIDTH = 80  # of the lines, as of the narrowest usual terminal
MOST_USED = (
    "run", "data", "seed", "method", "size", "suite", "stage1.max_steps",
    "stage1.learning_rate", "moe.num_experts", "evaluation.episodes",
)  # fmt: skip


def names_epilog() -> str:
    """Return the names that `--conf`, `m3dt study` and the most used keys take."""
    rows = {
        "experiments (--conf)": sorted(set(shipped_confs()) - {"base"}),
        "studies (m3dt study)": sorted(shipped_studies()),
        "methods (method=)": list(METHODS),
        "sizes (size=)": list(SIZES),
    }
    lines = [f"{title}:\n" + _filled(", ".join(names), "  ") for title, names in rows.items()]
    keys = {key.dotted: key for key in all_keys()}
    lines += ["keys used most (key=value):"]
    lines += [_filled(keys[name].summary, f"  {name:21} ") for name in MOST_USED]
    return "\n".join(lines)


def _filled(text: str, before: str) -> str:
    """Return text in lines that fit a terminal; all begin at the same column."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=before,
        subsequent_indent=" " * len(before),
        break_on_hyphens=False,
    )
