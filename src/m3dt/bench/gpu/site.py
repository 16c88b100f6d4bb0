"""Where parts of the benchmark work: a folder with a dataset, a device, and sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rich.console import Console

from m3dt.bench.devices import PRECISIONS, Machine, peak_of
from m3dt.bench.synthetic import write_dataset
from m3dt.config import Config, load_config
from m3dt.tasks import tasks_of

CONF = "base"
QUIET = Console(quiet=True)
_NO_CALLBACKS = tuple(
    f"callbacks.{name}=null" for name in ("conflict", "expert_conflict", "router_usage", "progress")
)


@dataclass(frozen=True)
class Sizes:
    """How large the work is; the defaults are those of `m3dt bench --gpu`.

    Attributes:
        suite: Tasks of the dataset.
        trajectories: Per task.
        length: Steps of a trajectory. 0 means the task's horizon.
        model: Settings of the model that is timed; none for the paper's.
        workload_experts: Experts of stage 2; and of stage 3 with its batch size.
        seconds: That each form of a step is timed, after as many seconds of warm-up.
        checked_model: Settings of the model in checks of equality.
        checked_steps: Steps that must agree to the bit; a quarter of it lies between checkpoints.
        close_steps: Steps that must agree within a tolerance.
        experts: Number of experts in grouping and evaluation.
        probe_batches: Of each task in grouping.
        evaluations: Tasks and episodes of each evaluation.
    """

    suite: str = "mt160"
    trajectories: int = 6
    length: int = 0
    model: tuple[str, ...] = ()
    stage2: int = 40
    stage3: tuple[tuple[int, int], ...] = ((40, 16), (8, 16), (128, 16), (40, 64))
    seconds: float = 2.0
    checked_model: tuple[str, ...] = ("model.n_layer=2", "model.n_embd=128", "model.n_head=4")
    checked_steps: int = 200
    close_steps: int = 20
    experts: int = 40
    probe_batches: int = 10
    evaluations: tuple[tuple[int, int], ...] = ((40, 1), (160, 4))


@dataclass(frozen=True)
class Site:
    """A place of work; every process of the benchmark is given one.

    Attributes:
        folder: For everything that is written.
        device: `cuda`, or `cpu`.
        sizes: Of the work.
        machine: The machine's peaks, once measured.
    """

    folder: Path
    device: str
    sizes: Sizes = Sizes()
    machine: Machine | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Names of the dataset's tasks."""
        return tasks_of(load_config(CONF, [f"suite={self.sizes.suite}"]))

    def some_tasks(self, number: int) -> tuple[str, ...]:
        """Return the names of some tasks, spread over all."""
        step = max(1, len(self.tasks) // number)
        return self.tasks[::step][:number]

    def write_data(self) -> None:
        """Write the dataset."""
        sizes = self.sizes
        write_dataset(self.folder / "data", self.tasks, sizes.trajectories, sizes.length)

    def overrides(self, run: str, *more: str) -> list[str]:
        """Return the settings of a run, as overrides of `CONF`; later ones take precedence."""
        return [
            f"suite={self.sizes.suite}",
            f"data={self.folder / 'data'}",
            f"run={self.folder / 'runs' / run}",
            f"trainer.accelerator={self.device}",
            *_NO_CALLBACKS,
            *more,
        ]

    def config(self, run: str, *more: str) -> Config:
        """Return the configuration of a run."""
        return load_config(CONF, self.overrides(run, *more))

    def knowing(self, machine: Machine) -> Site:
        """Return this site with a machine's peaks."""
        return replace(self, machine=machine)

    def peak(self, precision: str) -> float | None:
        """Return the GFLOP/s of matrix products in a precision of training, if they are known."""
        return peak_of(self.machine, PRECISIONS[precision]) if self.machine else None
