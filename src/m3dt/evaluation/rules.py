"""The rules of evaluation that a user's code gives to a function."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from m3dt.config import EvaluationConfig
from m3dt.config.fields import SettingError
from m3dt.utils.errors import UserError
from m3dt.utils.numbers import whole_number


def rules_of(config: Any, episodes: Any = None, seed: Any = None) -> EvaluationConfig:
    """Return rules with a number of episodes and a seed, by default the rules' own.

    Raises:
        UserError: The rules are no `EvaluationConfig`, or a number is not whole or out of range.
    """
    rules = EvaluationConfig() if config is None else config
    if not isinstance(rules, EvaluationConfig):
        raise UserError(
            f"config={config!r:.60}: give m3dt.config.EvaluationConfig(...), whose keys "
            "`m3dt config keys evaluation` lists"
        )
    given = {"episodes": episodes, "seed": seed}
    numbers: dict[str, Any] = {
        k: whole_number(k, value) for k, value in given.items() if value is not None
    }
    try:
        return replace(rules, **numbers)
    except SettingError as error:
        raise UserError(str(error)) from None
