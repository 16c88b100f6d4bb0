"""Settings of training stages: their length and their optimiser."""

from dataclasses import dataclass

from m3dt.config.fields import Section, SettingError, choice, number, setting
from m3dt.utils.shards import ALL

DECAYS = ("none", "cosine", "cooldown")  # of the learning rate


@dataclass
class StageConfig(Section):
    """The length of a training stage and its AdamW optimiser."""

    max_steps: int = number(400_000, low=1)
    """Number of optimiser steps."""
    learning_rate: float = number(1e-4, above=0)
    """Learning rate of AdamW after the warm-up."""
    weight_decay: float = number(1e-4, low=0)
    """Weight decay of AdamW."""
    warmup_steps: int = number(10_000, low=0)
    """Number of steps over which the learning rate rises linearly."""
    decay: str = choice("none", DECAYS)
    """After the warm-up, `none` keeps the learning rate and `cosine` takes it to 0 at max_steps.
    `cooldown` keeps it and then takes it to 0 linearly, up to max_steps; where the conflict's peak
    ends stage 1, the cooldown begins there and ends the stage."""
    cooldown_share: float = number(0.33, above=0, high=1)
    """Steps of a cooldown over the steps before it."""
    gradient_clip: float = number(0.25, above=0)
    """Largest global norm of the gradient (stage 2: of each expert's own gradient)."""
    batch_size: int = number(0, low=0)
    """Segments per optimiser step in this stage. 0 means loader.batch_size."""
    # Resuming from a checkpoint is exact, so it does not matter where they lie.
    checkpoint_every: int = number(5000, low=1, weights=False)
    """Number of steps between two checkpoints. The newest two are kept until the stage ends."""
    checkpoint_minutes: float = number(10.0, low=0, weights=False)
    """Minutes after which a checkpoint is written although none is due by steps. 0 means never."""
    keep_every: int = number(0, low=0, weights=False)
    """Number of steps between two checkpoints that stay, in <run>/checkpoints/kept. 0 keeps
    none."""
    validate_every: int = number(1000, low=1)
    """Number of steps between two validations, where loader.validation_trajectories is above 0."""
    # It decides whether a training fails, not what the steps compute.
    max_bad_steps: int = number(10, low=0, weights=False)
    """Number of steps that are skipped because the loss or the gradient is not finite. One more
    ends the training."""
    class_path: str = ""
    """Dotted path of a stage of your own that is derived from m3dt's (docs/plugging-in.md). Empty
    means m3dt's own."""


@dataclass
class FrozenStageConfig(StageConfig):
    """A training stage that keeps parts of the model frozen."""

    frozen_dropout: bool = False
    """Whether dropout is active in the frozen parts too, as in the authors' code."""


@dataclass
class ExpertStageConfig(FrozenStageConfig):
    """The training of the experts, which several jobs can share."""

    max_steps: int = number(200_000, low=1)
    """Number of optimiser steps."""
    # An expert does not depend on which others are trained with it.
    shard: str = setting(ALL, weights=False)
    """`i/n` trains the experts k with k % n == i, so that n jobs share the work."""

    def __post_init__(self) -> None:
        super().__post_init__()
        index, _, count = self.shard.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise SettingError(self, "{} must read i/n with 0 <= i < n, such as 0/4", "shard")

    def shard_numbers(self) -> tuple[int, int]:
        """Return i and n of the shard `i/n`."""
        index, count = self.shard.split("/")
        return int(index), int(count)


@dataclass
class PromptRouterConfig(StageConfig):
    """The training of the router that chooses experts by the prompt (`moe.router=prompt`)."""

    max_steps: int = number(2000, low=1)
    learning_rate: float = number(1e-3, above=0)
    weight_decay: float = number(1e-2, low=0)
    warmup_steps: int = number(50, low=0)
    decay: str = choice("cosine", DECAYS)
    gradient_clip: float = number(1.0, above=0)
    batch_size: int = number(256, low=1)
    """Prompts per optimiser step, of as many tasks as there are, in turn."""
    checkpoint_every: int = number(500, low=1, weights=False)
    hidden: int = number(256, low=1)
    """Width of the hidden layer."""
