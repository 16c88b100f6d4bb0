"""Counts agree with their nouns, in every text that is printed."""

import re
from pathlib import Path

import pytest

from m3dt.utils.counts import agreeing, counted

SOURCE = Path(__file__).resolve().parents[1] / "src" / "m3dt"
# Counts of a study's tasks, which are four at least, stand in its figures, tables and claims.
OF_A_STUDY = ("figures", "claims", "tables.py")
NOUNS = (
    "episodes problems tasks cells runs experts files entries seeds pieces rows trajectories steps "
    "groups minutes states actions processes tensors records prompts models evaluations"
)
COUNT = re.compile(rf"\{{[^{{}}]*\}} (?:{'|'.join(NOUNS.split())})\b")
ALLOWED = (
    "{whose} prompts", "{list(sizes)} rows",  # no counts
    "{shown(left[0])} minutes", "{m['env_steps_per_second']:,.0f} steps",  # not whole
    "{len(TASKS)} tasks", "{LONGEST_PIECE} minutes", "{results.medium} tasks",  # many
    "{self.num_timesteps:,} steps", "{num_tasks} tasks", "{episodes} episodes",
    "{self.num_experts} experts",
    "{len(mine)} tasks", "{len(same)} experts",  # where there are several
    "{len(rows)} rows",
)  # fmt: skip


@pytest.mark.parametrize(
    ("noun", "many"),
    [
        ("task", "tasks"),
        ("trajectory", "trajectories"),
        ("process", "processes"),
        ("batch", "batches"),
        ("day", "days"),
        ("state dimension", "state dimensions"),
    ],
)
def test_nouns_agree_with_counts(noun, many):
    assert [counted(n, noun) for n in (0, 1, 2)] == [f"0 {many}", f"1 {noun}", f"2 {many}"]
    assert [agreeing(n, "is", "are") for n in (0, 1, 2)] == ["are", "is", "are"]


def test_no_text_counts_with_a_plural_alone():
    found = [
        f"{path.relative_to(SOURCE)}: {match[0]}"
        for path in SOURCE.rglob("*.py")
        if not {path.name, path.parent.name} & {*OF_A_STUDY}
        for match in COUNT.finditer(path.read_text())
    ]
    assert [one for one in found if not one.endswith(ALLOWED)] == []
