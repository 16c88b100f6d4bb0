"""Settings of collecting a dataset and of drawing batches from it."""

from dataclasses import dataclass

from m3dt.config.fields import Section, choice, number, path_setting


@dataclass
class CollectConfig(Section):
    """How many trajectories are collected, and by which policies."""

    trajectories: int = number(2000, low=4)
    """Trajectories per task. The last 2 serve as prompts."""
    workers: int = number(0, low=0)
    """Number of processes that collect. 0 means one per available CPU."""
    policies: str = path_setting()
    """Folder of behaviour policies that take precedence over the package's (`m3dt behaviour`)."""
    seed: int = number(0, low=0)
    """Seed of the environments and of the policies' noise."""


@dataclass
class LoaderConfig(Section):
    """How batches are drawn from a dataset."""

    batch_size: int = number(16, low=1)
    """Segments per optimiser step, summed over all processes (stage 2: per expert)."""
    sampling: str = choice("one_task", ("one_task", "mixed"))
    """`one_task` draws each batch from one task, round-robin. `mixed` divides each batch equally
    among tasks."""
    tasks_per_batch: int = number(0, low=0)
    """Number of tasks that share a `mixed` batch, round-robin. 0 means up to batch_size tasks."""
    best_share: float = number(1.0, above=0, high=1)
    """Fraction of each task's training trajectories that are trained on, those with the highest
    returns; at least one. Prompts, held-out trajectories and statistics stay as they are."""
    std_floor: float = number(0.01, above=0)
    """Lower bound on the standard deviation of a state dimension, for `normalization=floored`."""
    normalization: str = choice("floored", ("floored", "official"))
    """`floored` uses the statistics of the training trajectories, with std_floor. `official` adds
    1e-6 to the standard deviation and normalises prompts by their own statistics, as the authors'
    code does."""
    # Batches are a pure function of seed, step and rank, whoever prepares them.
    num_workers: int = number(0, low=0, weights=False)
    """Number of processes that prepare batches. 0 prepares them in the training process, and on a
    GPU in one other process."""
    resident: str = choice("auto", ("auto", "on", "off"), weights=False)
    """Whether the training device holds the whole dataset, prepared, and gathers batches from it.
    `auto` turns it on where the device is a GPU with enough memory. Batches are the same."""
    validation_trajectories: int = number(0, low=0)
    """Number of trajectories per task that are held out of training and give `val/loss`, spread
    evenly over the training trajectories ordered by return."""
