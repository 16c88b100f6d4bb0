"""Settings of grouping and of HarmoDT."""

from dataclasses import dataclass

from m3dt.config.fields import Section, choice, number


@dataclass
class GroupingConfig(Section):
    """How tasks are divided among the experts (paper section 4.2, appendix C)."""

    method: str = choice("gradient", ("random", "gradient"))
    """`random` cuts a shuffled list into equal parts. `gradient` runs K-means on the tasks'
    agreement vectors."""
    num_batches: int = number(10, low=1)
    """Number of batches over which a task's gradient is averaged."""
    gradient_clip: float = number(0.0, low=0)
    """Largest norm of each of these batches' gradients. 0 does not clip; the authors' code uses
    0.25."""
    restarts: int = number(40, low=1)
    """Number of K-means runs. The run with the most even group sizes is kept."""
    # It moves only the rounding of the agreement; experts depend on the registered groups.
    memory_gb: float = number(0.0, low=0, weights=False)
    """Memory in GiB for the gradients of all tasks. Where those over all parameters do not fit,
    they are computed anew for each block of parameters. 0 means half of a GPU's memory without the
    dataset on it, or a quarter of the machine's."""


@dataclass
class HarmoConfig(Section):
    """HarmoDT: one mask over the parameters per task (Hu et al. 2024)."""

    sparsity: float = number(0.2, low=0, below=1)
    """Fraction of the parameters that each task's mask leaves out."""
    update_every: int = number(500, low=1)
    """Number of steps between two updates of the masks."""
    max_changed: int = number(100, low=0)
    """Largest number of parameters that an update exchanges per task; reached in the middle of
    training."""
    exchanged_share: float = number(0.0, low=0, high=1)
    """Fraction of the parameters that each task exchanges over the whole training, however long it
    is, in place of max_changed. 0 follows max_changed, as the original does."""
    gamma: float = number(10.0, low=0)
    """Weight of agreement relative to importance when parameters are pruned."""
    importance: str = choice("gradient", ("gradient", "weight"))
    """`gradient` ranks parameters by their squared gradient, `weight` by their magnitude."""
