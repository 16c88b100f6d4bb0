"""What `m3dt evaluate --json` wrote about a cell's models, and the columns made of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m3dt.evaluation.scores import shares_of_target
from m3dt.runs.layout import SCORES
from m3dt.study.cell_data import COLUMN, DataHere, trained_on
from m3dt.study.grid import Cell, Study
from m3dt.tasks import DOMAINS
from m3dt.utils.errors import UserError
from m3dt.utils.files import read_json, write_json

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
    models: dict[str, Any] = _read(path)["models"]
    return models


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a file of results, signed or not; see `read_results`."""
    try:
        content = dict(read_json(path, finite=True))
        content["models"] = dict(content["models"])
        for result in content["models"].values():
            _check_result(result)
    except UserError:  # the system refuses to read it, or a task is unknown here
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        content = {"models": {}}
    if not content["models"]:
        raise UserError(
            f"{path}: is not what this version of `m3dt evaluate --json` writes. Delete it; "
            "`m3dt study` evaluates the cell again."
        )
    return content


def sign_results(study: Study, cell: Cell) -> None:
    """Write into a cell's results of which settings and data they are.

    Raises:
        UserError: They cannot be read, or a model's entry is damaged.
    """
    path = study.runs / cell.name / SCORES
    results = read_results(path)
    signed = {"settings": cell.key, COLUMN: trained_on(study.runs / cell.name)}
    write_json(path, {"models": results, **signed})


def dataset_of_results(study: Study, cell: Cell, data: DataHere) -> str | None:
    """Return which data a cell's results here are of; None if there are none that count.

    Results count if `sign_results` signed them, they are of the cell's settings, and the dataset
    on this machine is no other than that of its training.

    Raises:
        UserError: They cannot be read.
    """
    path = study.runs / cell.name / SCORES
    if not path.is_file():
        return None
    content = _read(path)
    dataset = str(content.get(COLUMN, ""))
    counts = content.get("settings") == cell.key and data.agrees(cell, dataset)
    return dataset if counts else None


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
