"""A claim, and whether numbers by seed bear it out."""

from __future__ import annotations

from dataclasses import dataclass

from m3dt.study.estimates import NOT_MEASURED, Estimate, Scores, difference, estimate

HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "cannot be told", NOT_MEASURED
OURS = "a question of ours"  # where the paper is silent
NO_NUMBER = "no number stated"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper beside our numbers.

    Attributes:
        name: A word to find it by.
        text: What is claimed.
        paper: What the paper says of it: its number, `NO_NUMBER` or `OURS`.
        ours: Our numbers.
        verdict: One of `HOLDS`, `FAILS`, `OPEN`, `MISSING`.
    """

    name: str
    text: str
    paper: str
    ours: str
    verdict: str

    def sentence(self) -> str:
        """Return what a figure's caption says."""
        source = self.paper if self.paper == OURS else f"paper: {self.paper}"
        known = "" if self.verdict == MISSING else " here"
        ours = f" {self.ours[0].upper()}{self.ours[1:]}." if self.ours else ""
        return f"{self.text} ({source}): **{self.verdict}**{known}.{ours}"


def verdict(found: Estimate | None) -> str:
    """Return whether a difference that is claimed to be positive is.

    It takes an interval, hence several seeds, to say more than that it cannot be told.
    """
    if found is None:
        return MISSING
    if found.seeds < 2:
        return OPEN
    return HOLDS if found.low > 0 else FAILS if found.high < 0 else OPEN


def joint_verdict(verdicts: list[str]) -> str:
    """Return whether several things that are claimed together all hold."""
    if not verdicts or MISSING in verdicts:
        return MISSING
    if FAILS in verdicts:
        return FAILS
    return OPEN if OPEN in verdicts else HOLDS


def compare(
    name: str,
    text: str,
    paper: str,
    better: tuple[str, Scores],
    worse: tuple[str, Scores],
    unit: str = "",
) -> Claim:
    """Return the claim that one set of scores, with its title, exceeds another.

    Args:
        name: A word to find it by.
        text: What is claimed.
        paper: What the paper says of it.
        better: Title and scores of what is claimed to have more.
        worse: The same of what is claimed to have less.
        unit: Follows the numbers.
    """
    found = difference(better[1], worse[1])
    told = ", ".join(f"{title}: {say(scores, unit)}" for title, scores in (better, worse))
    change = "" if found is None else f"; difference {found.text(unit)}"
    return Claim(name, text, paper, told + change, verdict(found))


def say(scores: Scores, unit: str = "") -> str:
    """Return mean and interval over seeds in words."""
    found = estimate(scores.values())
    return NOT_MEASURED if found is None else found.text(unit)
