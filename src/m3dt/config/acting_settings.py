"""Settings of evaluation, and of how steps are computed."""

from dataclasses import dataclass

from m3dt.config.fields import Section, SettingError, choice, number, path_setting


@dataclass
class EvaluationConfig(Section):
    """Rollouts in the simulators."""

    episodes: int = number(10, low=1)
    """Episodes per task."""
    workers: int = number(0, low=0)
    """Number of processes that step environments. 0 means one per available CPU."""
    tile: int = number(10, low=1)
    """Number of episodes of one task that a worker steps together."""
    batch_size: int = number(0, low=0)
    """Number of episodes that share a forward pass, of one or several tasks. Smaller passes are
    padded with copies to this size: on one CPU thread a row then rounds the same in every pass, so
    scores depend on neither workers nor tasks. 0 means 10 on a CPU and up to 128 on a GPU, but at
    least tile. Small models are faster with 16 or 32 on a CPU where tasks have few episodes."""
    precision: str = choice("32-true", ("32-true", "bf16-mixed"))
    """Precision of the matrix products; `bf16-mixed` computes them in bfloat16."""
    target: str = choice("paper", ("paper", "data"))
    """Target return: `paper` uses the domain's constant, `data` the task's best return in the
    dataset."""
    target_scale: float = number(1.0, above=0)
    """What the model is asked for, as a share of the target return, counted from the return that
    scores 0: -100 in cheetah-vel, whose target is 0 in the paper, elsewhere 0."""
    history: str = choice("auto", ("auto", "real_dims", "all_dims"))
    """Past actions that the model sees. `real_dims` sets padded dimensions to zero, as in training.
    `all_dims` keeps the model's outputs there, as the authors' code does. `auto` uses `all_dims`
    for the authors' models."""
    seed: int = number(0, low=0)
    """Seed of the environments."""
    gates: str = choice("auto", ("auto", "token", "episode"))
    """When a trained router weighs the experts. `token`: at each token, as the paper does.
    `episode`: once, by its mean gates over the prompt. `auto` means `token`; a router by prompts
    always chooses once per episode."""
    experts: str = choice("auto", ("auto", "all"), numbers=True)
    """How many experts act, those of the largest gates: `all`, or a number. `auto`: all of a token
    router; of a router by prompts the fewest whose gates sum to 0.9, at most 4."""
    prompts: str = path_setting()
    """Folder of a dataset whose trajectories serve as prompts. Empty means the agent's own
    prompts."""
    prompt_return: float = number(1.0, low=0, high=1)
    """With `prompts`: the return of the trajectories that are chosen, from 0, the lowest in the
    task's data, to 1, the highest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.batch_size < self.tile:
            raise SettingError(self, "{} is more than {}", "tile", "batch_size")


@dataclass
class ComputeConfig(Section):
    """Shortcuts that change rounding and, with dropout, which units are dropped; nothing else."""

    shortcuts: str = choice("on", ("on", "off"))
    """`off` trains by the plain model, which is slower and easy to follow."""
    share_prompts: str = choice("auto", ("auto", "on", "off"))
    """Whether each distinct prompt of a batch is encoded once for all rows that use it. With
    dropout, these rows share the dropped units of the prompt. `auto` turns it on where a batch has
    at most half as many prompts as rows."""
    experts: str = choice("auto", ("auto", "in_turn", "together", "wide"))
    """How the experts behind a router are evaluated. `in_turn` runs frozen experts one after the
    other and needs little memory. `wide` runs all as one feed-forward network. `together` runs one
    batched product, as does `in_turn` while experts train. `auto` means `in_turn` on a CPU and
    `wide` elsewhere."""
    # The next two change no bit of the weights, only when Python and the device meet.
    steps_per_call: int = number(0, low=0, weights=False)
    """Most optimiser steps per call of `training_step`. 0 means as many as take about a second. No
    call runs past a checkpoint, a record of a callback, a validation or the end."""
    graph: str = choice("auto", ("auto", "on", "off"), weights=False)
    """Whether a step is recorded once as a CUDA graph and then replayed. `auto` turns it on on a
    single GPU, except in float16. Unless it is `off`, so are gradients that are measured."""
    compile: str = choice("auto", ("auto", "on", "off"))
    """Whether `torch.compile` fuses the operations of a step, which changes rounding. `auto` turns
    it on on a GPU, except in float16, for trainings of 20,000 steps or more; compiling takes up to
    a minute."""
