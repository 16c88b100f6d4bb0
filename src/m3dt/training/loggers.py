"""The loggers of a training: TensorBoard, and those that a configuration names by their classes."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from m3dt.config import Config
from m3dt.config.instances import build, check_given


class StepLogger(TensorBoardLogger):
    """TensorBoard without the curve of epochs: a run has only one.

    The page of hyper-parameters shows them beside scores; evaluation writes it. Training keeps them
    in `hparams.yaml`.
    """

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({k: v for k, v in metrics.items() if k != "epoch"}, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.hparams.update(params)


def build_loggers(config: Config, name: str, purge_step: int) -> list[Logger]:
    """Build TensorBoard's logger and those of the section `loggers`, which see the same values.

    Args:
        config: The experiment.
        name: Of the training's folder.
        purge_step: TensorBoard drops records from this step on.

    Raises:
        UserError: A class or an argument does not exist, or a package is not installed.
    """
    _wait_for_next_second(Path(config.run) / "logs" / name)
    tensorboard = StepLogger(
        config.run, name="logs", version=name, default_hp_metric=False, purge_step=purge_step
    )
    found: list[Logger] = [tensorboard]
    for own, given in config.loggers.items():
        if given is None:
            continue  # switched off
        key = f"loggers.{own}"
        check_given(config, key, given, [], "a logger")
        place = {"save_dir": str(Path(config.run) / "logs" / name / own)}
        kind: Any = Logger  # abstract, which type checkers refuse for `type[T]`
        found.append(build(config, key, given, kind, "a Lightning logger", place))
    return found


def _wait_for_next_second(folder: Path) -> None:
    """Wait until no file of events began in this second.

    TensorBoard reads files in the order of their names, which have the second and then the process:
    it would pass over a file of the same second by a process of a smaller number.
    """
    began = {path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*.*")}
    while str(int(time.time())) in began:
        time.sleep(0.02)
