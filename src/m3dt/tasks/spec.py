"""The specification of a task: widths, horizon, returns and scores."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from m3dt.config import Config
from m3dt.config.fields import settings_of
from m3dt.utils.errors import RunError, UserError, others_code

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# Columns of a study's table of scores, which has one for each setting, domain and model, too.
_COLUMNS = {
    "part", "title", "score", "low", "high", "parameters", "episodes", "cell", "settings",
    "dataset", "random", "nothing", "nearest", "backbone", "router", "expert", "baseline", "oracle",
    "even", "random-expert",
}  # fmt: skip

ScoreRule = tuple[float, float] | Callable[[float, bool], float]
"""The returns that score 0 and 100, or a function of an episode's return and success."""


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(_NAME.fullmatch(value))


def _is_column(domain: str) -> bool:
    """Tell whether a table of scores has a column of this name that is not a domain's."""
    return domain in _COLUMNS or domain.partition(".")[0] in settings_of(Config())


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real)


def score_of_success(episode_return: float, success: bool) -> float:
    """Return 100 if any step of an episode was a success, else 0."""
    return 100.0 * success


@dataclass(frozen=True)
class TaskSpec:
    """A control task.

    The target return, the return scale and the score may be left out: they then follow from the
    data, whose best return is the target and scores 100, while the mean return of random actions
    scores 0 (`completed`).

    Attributes:
        name: Letters, digits, `_`, `.` and `-`, such as `reach-v2`.
        domain: A free name for a family of tasks; tables average over it. Names of other columns,
            such as `score`, and of settings are refused.
        state_dim: Width of the observations.
        action_dim: Width of the actions, which lie in [-1, 1].
        horizon: Largest number of agent steps in an episode.
        target_return: What evaluation conditions on; NaN if it follows from the data.
        return_scale: Returns are divided by it before they enter the model; NaN as above.
        score: How an episode scores, 0 to 100.
        env_id: Name in the simulator, such as `reach-v3`.
        goal: Of the 160 tasks: m/s (cheetah-vel), radians (ant-dir).
    """

    name: str
    domain: str
    state_dim: int
    action_dim: int
    horizon: int
    target_return: float = math.nan
    return_scale: float = math.nan
    score: ScoreRule | None = None
    env_id: str = ""
    goal: float | None = None

    def check(self) -> None:
        """Check what a user has written.

        Raises:
            UserError: A field has a value that no task can have.
        """
        problems = {
            "name": not _is_name(self.name) and "must be letters, digits, _ . and -",
            "domain": self._problem_of_domain(),
            "return_scale": not (
                _is_number(self.return_scale)
                and (math.isnan(self.return_scale) or 0 < self.return_scale < math.inf)
            )
            and "must be a number above 0",
            "target_return": not (
                _is_number(self.target_return) and not math.isinf(self.target_return)
            )
            and "must be a finite number",
            "score": not self._has_sound_score()
            and "must be a function, or the returns that score 0 and 100, in this order",
        }
        for width in ("state_dim", "action_dim", "horizon"):
            value = getattr(self, width)
            sound = type(value) is int and value > 0
            problems[width] = not sound and "must be a whole number, 1 or more"
        for field, problem in problems.items():
            if problem:
                raise UserError(f"task '{self.name}': {field}={getattr(self, field)!r} {problem}.")

    def _problem_of_domain(self) -> str:
        if not _is_name(self.domain):
            return "must be letters, digits, _ . and -"
        if _is_column(self.domain):
            return "is another column of tables of scores: give another name"
        return ""

    def _has_sound_score(self) -> bool:
        if not isinstance(self.score, tuple):
            return self.score is None or callable(self.score)
        if len(self.score) != 2 or not all(map(_is_number, self.score)):
            return False
        return -math.inf < self.score[0] < self.score[1] < math.inf

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to the data."""
        left_out = math.isnan(self.target_return) or math.isnan(self.return_scale)
        return not left_out and self.score is not None

    def completed(self, random_return: float, best_return: float) -> TaskSpec:
        """Return the specification with what it leaves to the data.

        Args:
            random_return: Mean return of random actions; it scores 0.
            best_return: Largest episode return of the data: the target, which scores 100. The
                larger size of both is the return scale.

        Raises:
            UserError: The best return is no better than that of random actions.
        """
        if self.is_complete:
            return self
        score = self.score or (random_return, best_return)
        if self.score is None and math.isnan(random_return):
            raise UserError(
                f"{self.name}: its score follows from the data, but these were written when it "
                "did not, without the return of random actions. Collect or import them again."
            )
        if self.score is None and not random_return < best_return:
            raise UserError(
                f"{self.name}: the best return of the data, {best_return:g}, is not above that of "
                f"random actions, {random_return:g}, so they cannot be the scores 100 and 0. "
                "Register the task with score=(LOW, HIGH), or give better data."
            )
        sizes = [abs(value) for value in (random_return, best_return) if math.isfinite(value)]
        target = best_return if math.isnan(self.target_return) else self.target_return
        scale = max(sizes) or 1.0 if math.isnan(self.return_scale) else self.return_scale
        return replace(self, target_return=target, return_scale=scale, score=score)

    @property
    def lowest_return(self) -> float:
        """The return that scores 0, where it is known; else 0."""
        return float(self.score[0]) if isinstance(self.score, tuple) else 0.0

    def share_of_target(self, episode_return: float) -> float:
        """Return a return as a share of the target return, counted from the lowest return."""
        return (episode_return - self.lowest_return) / (self.target_return - self.lowest_return)

    def normalized_score(self, episode_return: float, success: bool) -> float:
        """Return an episode's score from 0 to 100.

        Raises:
            RunError: The return, or the score that the task's own rule gives it, is not finite.
            UserError: The score follows from data that are not at hand.
        """
        if not math.isfinite(episode_return):
            raise RunError(f"{self.name}: a return of {episode_return} has no score")
        if self.score is None:
            raise UserError(
                f"{self.name}: its score follows from data, but none are at hand. Register the "
                "task with score=(LOW, HIGH)."
            )
        if isinstance(self.score, tuple):
            low, high = self.score
            share = (episode_return - low) / ((high - low) / 100)
        else:
            with others_code(f"{self.name}: its score"):
                share = float(self.score(episode_return, success))
        if not math.isfinite(share):
            raise RunError(f"{self.name}: the score of a return of {episode_return} is {share}")
        return float(min(max(share, 0.0), 100.0))
