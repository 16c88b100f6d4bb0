"""Fine-tuning: weights that a training begins from, taken from another run."""

from torch import Tensor

from m3dt.models import PromptDT
from m3dt.runs.entries import Entry
from m3dt.runs.registry import MAIN, Registry
from m3dt.runs.tensors import check_tensors
from m3dt.utils.errors import UserError


def beginning(folder: str) -> Entry:
    """Return the model of a run that a training begins from: its backbone, or its only baseline.

    Raises:
        UserError: The run has none, or several baselines.
    """
    registry = Registry(folder)
    backbone = registry.find("backbone", MAIN)
    if backbone is not None:
        return backbone
    baselines = [entry for entry in registry.entries() if entry.kind == "baseline"]
    if len(baselines) != 1:
        found = ", ".join(entry.key for entry in baselines) or "no model"
        raise UserError(
            f"init_from={folder}: must be a run with a backbone or one baseline; it has {found}"
        )
    return baselines[0]


def load_beginning(model: PromptDT, folder: str) -> None:
    """Give a model the weights of another run's; see `beginning`.

    Raises:
        UserError: They are of another size.
    """
    registry, entry = Registry(folder), beginning(folder)
    weights: dict[str, Tensor] = registry.tensors(entry)
    check_tensors(registry.file(entry), weights, model.state_dict())
    model.load_state_dict(weights)
