"""A claim and its verdict from scores by seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from m3dt.study.estimates import NOT_MEASURED, Scores, estimate, format_scores, minus, t_test

HOLDS, FAILS, INCONCLUSIVE, MISSING = "holds", "does not hold", "inconclusive", NOT_MEASURED
NOT_IN_PAPER = "a question of ours"
NO_NUMBER = "no number stated"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper with our numbers.

    `paper` is the paper's number, `NO_NUMBER` or `NOT_IN_PAPER`. The claim is that each of
    `differences`, by seed, has a positive mean; without any it was not measured.
    """

    name: str
    text: str
    paper: str
    ours: str
    differences: tuple[Scores, ...] = ()

    @property
    def verdict(self) -> str:
        """One of `HOLDS`, `FAILS`, `INCONCLUSIVE` and `MISSING`."""
        return joint_verdict(self.differences)

    @property
    def test(self) -> str:
        """The test that the verdict follows, its number of seeds, and its p-value."""
        return "; ".join(t_test(d) for d in self.differences) if self.verdict != MISSING else ""

    def sentence(self) -> str:
        """Return the claim, its verdict and our numbers as a sentence for a caption."""
        source = self.paper if self.paper == NOT_IN_PAPER else f"paper: {self.paper}"
        here = "" if self.verdict == MISSING else f" here ({self.test})"
        ours = f" {self.ours[0].upper()}{self.ours[1:]}." if self.ours else ""
        return f"{self.text} ({source}): **{self.verdict}**{here}.{ours}"


def verdict(differences: Scores) -> str:
    """Return whether the mean of differences by seed is positive, as claimed.

    A single seed has no interval and is inconclusive.
    """
    found = estimate(differences)
    if found is None:
        return MISSING
    if found.interval is None:
        return INCONCLUSIVE
    low, high = found.interval
    return HOLDS if low > 0 else FAILS if high < 0 else INCONCLUSIVE


def joint_verdict(several: Sequence[Scores]) -> str:
    """Return the verdict on a claim that several differences by seed are all positive."""
    verdicts = [verdict(differences) for differences in several]
    if not verdicts or MISSING in verdicts:
        return MISSING
    if FAILS in verdicts:
        return FAILS
    return INCONCLUSIVE if INCONCLUSIVE in verdicts else HOLDS


def compare(
    name: str,
    text: str,
    paper: str,
    better: tuple[str, Scores],
    worse: tuple[str, Scores],
    unit: str = "",
    note: str = "",
) -> Claim:
    """Return the claim that some scores exceed others, both given with their titles.

    `note` holds further numbers of ours, with the punctuation before them.
    """
    change = minus(better[1], worse[1])
    difference = f"; difference {format_scores(change, unit)}" if change else ""
    ours = f"{listed((better, worse), unit)}{difference}{note}"
    return Claim(name, text, paper, ours, (change,))


def listed(models: Iterable[tuple[object, Scores]], unit: str = "") -> str:
    """Return titles with their scores as text."""
    return ", ".join(f"{title}: {format_scores(scores, unit)}" for title, scores in models)
