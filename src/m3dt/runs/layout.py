"""What a run's folder holds, and how to tell it from a folder of something else."""

from __future__ import annotations

from pathlib import Path

from m3dt.config.load import read_yaml
from m3dt.utils.errors import UserError

CONFIG = "config.yaml"  # of a run, as it was last given
_OURS = {"registry", "checkpoints", "logs", "evaluation", "scores.json"}  # beside it


def check_run_folder(folder: Path) -> None:
    """Refuse a folder of something else, whose files would be taken for ours and replaced.

    Raises:
        UserError: It is one.
    """
    if not folder.is_dir():
        return
    config = folder / CONFIG
    if config.is_file():
        ours = {"run", "conf", "suite"} <= read_yaml(config).keys()
        strange = set() if ours else {CONFIG}
    else:
        strange = {path.name for path in folder.glob("[!.]*")} - _OURS
    if strange:
        raise UserError(
            f"run={folder}: holds {', '.join(sorted(strange)[:3])}, which is of no run of "
            "m3dt. Give another run=FOLDER."
        )
