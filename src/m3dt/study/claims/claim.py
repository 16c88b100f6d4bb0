"""A claim, its verdict from differences by seed, and the sentences that state both."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from m3dt.study.estimates import (
    NOT_MEASURED,
    Scores,
    estimate,
    format_scores,
    minus,
    p_text,
    t_tests,
)
from m3dt.utils.intervals import LEVEL

HOLDS, FAILS, MISSING = "holds", "does not hold", NOT_MEASURED
INCONCLUSIVE = "inconclusive"
NOT_IN_PAPER = "a question of ours"
NO_NUMBER = "no number stated"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper with our numbers.

    The claim is that the mean of each of `differences` is positive; without any it was not
    measured.

    Attributes:
        name: Names it in the marks of documents.
        text: The claim as a sentence without its full stop.
        paper: The paper's number, `NO_NUMBER` or `NOT_IN_PAPER`.
        ours: The numbers that the differences come from, and others.
        differences: Values by seed, by what tells several apart, such as `at width 32`.
        unit: Of the differences.
    """

    name: str
    text: str
    paper: str
    ours: str = ""
    differences: Mapping[str, Scores] = field(default_factory=dict)
    unit: str = "points"

    @property
    def verdict(self) -> str:
        """One of `HOLDS`, `FAILS`, `INCONCLUSIVE` and `MISSING`.

        It holds if all differences are significantly positive, and does not if one of them is
        significantly negative. Several tests are corrected for their number.
        """
        several = list(self.differences.values())
        if not several or not all(several):
            return MISSING
        significant = [p is not None and p < 1 - LEVEL for p in t_tests(several)]
        signs = [
            fmean(differences.values()) * sure
            for differences, sure in zip(several, significant, strict=True)
        ]
        if any(sign < 0 for sign in signs):
            return FAILS
        return HOLDS if all(sign > 0 for sign in signs) else INCONCLUSIVE

    @property
    def result(self) -> str:
        """The mean of each difference, its interval, the number of seeds, and p of its test."""
        if self.verdict == MISSING:
            return ""
        several = self.differences
        p_values = t_tests(list(several.values()))
        test = "t test, " if len(several) == 1 else ""
        unit, parts = f" {self.unit}", []
        for (which, differences), p in zip(several.items(), p_values, strict=True):
            tested = _tested(differences, p, test)
            parts.append(f"{_mean(differences)}{unit}{f' {which}' if which else ''} ({tested})")
            unit = ""
        corrected = f"; t tests, p corrected by Holm for {len(parts)}" if len(parts) > 1 else ""
        return ", ".join(parts) + corrected

    def statement(self) -> str:
        """Return the claim, its verdict and the differences that decide it, as Markdown."""
        numbers = f", {self.result}" if self.result else ""
        return f"{self.text}: **{self.verdict}**{numbers}."

    def sentence(self) -> str:
        """Return the statement, what the paper says, and our numbers: a caption."""
        source = self.paper if self.paper == NOT_IN_PAPER else f"paper: {self.paper}"
        further = (f" {text[0].upper()}{text[1:]}." for text in (source, self.ours) if text)
        return f"{self.statement()}{''.join(further)}"


def compare(
    name: str,
    text: str,
    paper: str,
    better: tuple[str, Scores],
    worse: tuple[str, Scores],
    unit: str = "points",
    note: str = "",
) -> Claim:
    """Return the claim that some scores exceed others, both given with their titles.

    `note` holds further numbers of ours, with the punctuation before them.
    """
    change = minus(better[1], worse[1])
    ours = f"{listed((better, worse), '' if unit == 'points' else unit)}{note}"
    return Claim(name, text, paper, ours, {"": change}, unit)


def listed(models: Iterable[tuple[object, Scores]], unit: str = "") -> str:
    """Return titles with their scores as text."""
    unit = unit and f" {unit}"
    return ", ".join(f"{title}: {format_scores(scores, unit)}" for title, scores in models)


def _mean(differences: Scores) -> str:
    found = estimate(differences)
    assert found is not None, "a claim without numbers has no text"
    if found.interval is None:
        return f"{found.mean:z.1f}"
    return f"{found.mean:z.1f} [{found.interval.low:z.1f}, {found.interval.high:z.1f}]"


def _tested(differences: Scores, p: float | None, test: str) -> str:
    count = f"n = {len(differences)}"
    if p is None:
        return f"{count}, no test"
    return f"{test}{count}, {p_text(p)}"
