"""The stored evaluations of a run: one file per model and conditions, beside each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from m3dt.utils.errors import UserError
from m3dt.utils.files import fingerprint, read_json, write_json

FOLDER = "evaluation"
WAY = re.compile(r"(episode)?-?(all|[1-9]\d*)?")  # of choosing experts: after a model's name and @


class Conditions(NamedTuple):
    """What an evaluation was asked for; None stands for any."""

    tasks: frozenset[str] | None = None
    episodes: int | None = None
    """Episodes per task."""
    seed: int | None = None

    def fit(self, other: Conditions) -> bool:
        """Tell whether an evaluation under other conditions is one of these."""
        return all(own in (None, its) for own, its in zip(self, other, strict=True))


ANY = Conditions()


@dataclass(frozen=True)
class Evaluation:
    """The result of a model under some conditions.

    Attributes:
        model: Its name, such as `router@episode`.
        key: Digest of everything that the result depends on.
        written: When the episodes were played, as ISO 8601 in UTC.
        result: Scores, as `m3dt evaluate --json` writes them.
    """

    model: str
    key: str
    written: str
    result: Mapping[str, Any]

    @classmethod
    def now(cls, model: str, key: str, result: Mapping[str, Any]) -> Evaluation:
        """Return an evaluation that has just ended."""
        return cls(model, key, datetime.now(UTC).isoformat(), result)

    @property
    def conditions(self) -> Conditions:
        """Its tasks, episodes per task and seed."""
        tasks = frozenset(self.result["tasks"])
        return Conditions(tasks, self.result["episodes"], self.result["seed"])

    @property
    def weights(self) -> frozenset[str]:
        """SHA-256 of the weights it acted with; none of a policy that was not trained."""
        found = self.result["weights"]
        hashes = frozenset([found] if isinstance(found, str) else found)
        return hashes if self.result["num_parameters"] else frozenset()

    def write(self, folder: Path) -> None:
        """Store it in a folder of results, with a digest from which a later change is noticed."""
        content = asdict(self)
        file = evaluation_file(folder, self.model, self.key)
        write_json(file, {**content, "digest": fingerprint(content)})


def file_name(model: str) -> str:
    """Return a model's name as files have it, such as `router-prompt`."""
    return model.replace(":", "-")


def evaluation_file(folder: Path, model: str, key: str) -> Path:
    """Return the file of a model's evaluation in a folder of results, such as a run's."""
    return folder / FOLDER / f"{file_name(model)}.{key[:8]}.json"


def read_evaluation(file: Path) -> Evaluation | None:
    """Return the evaluation in a file, or None if it is missing or was edited.

    Raises:
        UserError: The system refuses to read the file.
    """
    if not file.is_file():
        return None
    try:
        content = read_json(file, finite=True)
        digest = content.pop("digest")
        found = Evaluation(**content)
        _ = found.conditions, found.weights
        return found if digest == fingerprint(content) else None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def evaluations(run: Path) -> tuple[list[Evaluation], list[str]]:
    """Return all evaluations of a run, the newest last, and notes about files that are none."""
    found, notes = [], []
    for file in sorted((run / FOLDER).glob("[!.]*.json")):
        try:
            one = read_evaluation(file)
        except UserError as error:
            notes.append(str(error))
            continue
        if one is None:
            notes.append(
                f"{file}: left out, since this version of m3dt did not write it, or it was "
                "changed. Delete it and repeat `m3dt evaluate`."
            )
        else:
            found.append(one)
    return sorted(found, key=lambda one: one.written), notes


def newest(found: Iterable[Evaluation], wanted: Conditions = ANY) -> dict[str, Evaluation]:
    """Return each model's newest evaluation under the wanted conditions, by the model's name."""
    fitting = (one for one in found if wanted.fit(one.conditions))
    by_model = {one.model: one for one in sorted(fitting, key=lambda one: one.written)}
    return dict(sorted(by_model.items()))
