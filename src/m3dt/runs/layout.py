"""The layout of a run's folder, and the check that a folder is a run's."""

from pathlib import Path

from m3dt.config.load import RUN_CONFIG, read_yaml
from m3dt.utils.errors import UserError

CONFIG = RUN_CONFIG
SCORES = "scores.json"  # the evaluation of a study's cell, in the folder of its run
_OTHER_NAMES = {"registry", "checkpoints", "logs", "evaluation", SCORES, "README.md"}


def check_run_folder(folder: Path) -> None:
    """Check that a folder is new or a run's, so that no other files are read or replaced.

    Raises:
        UserError: The folder contains other files.
    """
    if not folder.is_dir():
        return
    config = folder / CONFIG
    if config.is_file():
        is_run = {"run", "conf", "suite"} <= read_yaml(config).keys()
        foreign = set() if is_run else {CONFIG}
    else:
        foreign = {path.name for path in folder.glob("[!.]*")} - _OTHER_NAMES
    if foreign:
        raise UserError(
            f"run={folder}: holds {', '.join(sorted(foreign)[:3])}, which is not from a "
            "run of m3dt. Give another run=FOLDER."
        )
