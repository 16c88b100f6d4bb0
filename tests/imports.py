"""What tests of importers share."""

from pathlib import Path

from rich.console import Console

from m3dt.data.importers import import_dataset

DATA = Path(__file__).parent / "data"
OFFICIAL = DATA / "official_dataset" / "mt160_used"
OFFICIAL_TASKS = ("reach-v2", "walker-walk", "ant-dir-3")


def import_from(source, folder, kind, *names, observation=()):
    console = Console(quiet=True)
    return import_dataset(Path(source), Path(folder), kind, names, console, observation)


def left_alone(folder):
    """Whether a failed import left nothing in a new dataset."""
    return [path.name for path in folder.iterdir()] == [".lock"]


class Evil:
    """Pickles to a call that creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))
