"""What `m3dt evaluate --json` wrote about a cell's models, and the columns made of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m3dt.evaluation.scores import shares_of_target
from m3dt.tasks import DOMAINS
from m3dt.utils.errors import UserError
from m3dt.utils.files import read_json

RETURN = " return"  # ends the columns of a domain's achieved share of its target return
Row = Mapping[str, Any]  # settings, which differ between studies, and scores


def among(results: Mapping[str, Any], model: str) -> str:
    """Return the name of a model among results, `backbone@prompts-1` for `backbone`; or nothing."""
    if model in results:
        return model
    return next((name for name in results if name.partition("@")[0] == model), "")


def read_results(path: Path) -> dict[str, Any]:
    """Return the results of a cell's models by name, the cell's own model last.

    Raises:
        UserError: The file is not what `m3dt evaluate --json` writes.
    """
    try:
        models: dict[str, Any] = dict(read_json(path, finite=True)["models"])
        for result in models.values():
            _check_result(result)
    except UserError:  # the system refuses to read it, or a task is unknown here
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        models = {}
    if not models:
        raise UserError(
            f"{path}: is not what this version of `m3dt evaluate --json` writes. Delete it; "
            "`m3dt study` evaluates the cell again."
        )
    return models


def _check_result(result: Mapping[str, Any]) -> None:
    """Raise an error if the columns of a result cannot be made."""
    scores_of(result)
    scores_by_task(result)
    for name in ("num_parameters", "episodes"):
        if type(result[name]) is not int:
            raise TypeError(name)


def scores_of(result: Mapping[str, Any]) -> Row:
    """Return the columns about a model's scores."""
    low, high = [round(end, 2) for end in result["ci95"] or ()] or ("", "")  # one episode: none
    achieved = shares_of_target(result["tasks"])
    domains = dict.fromkeys((*DOMAINS, *result["domains"]))
    return {
        "title": result["method"],
        "score": round(result["score"], 2),
        "low": low,
        "high": high,
        **{d: round(result["domains"].get(d, float("nan")), 2) for d in domains},
        **{f"{d}{RETURN}": round(achieved.get(d, float("nan")), 4) for d in domains},
    }


def scores_by_task(result: Mapping[str, Any]) -> dict[str, float]:
    """Return a model's score of each task."""
    return {task: round(scores["score"], 2) for task, scores in result["tasks"].items()}
