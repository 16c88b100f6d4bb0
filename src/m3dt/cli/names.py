"""What the help lists: experiments, studies, methods, sizes and the keys used most."""

import textwrap

from m3dt.config import METHODS, SIZES, all_keys, shipped_confs, shipped_studies

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
    lines = [
        f"{title}:\n"
        + textwrap.indent(textwrap.fill(", ".join(names), 86, break_on_hyphens=False), "  ")
        for title, names in rows.items()
    ]
    keys = {key.dotted: key for key in all_keys()}
    lines += ["keys used most (key=value):"]
    lines += [f"  {name:21} {keys[name].summary}" for name in MOST_USED]
    return "\n".join(lines)
