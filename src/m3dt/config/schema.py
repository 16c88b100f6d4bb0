"""The schema of an experiment: every setting, its default, its range and its meaning.

Defaults are the paper's (section 5, tables 4 and 5) unless a comment says otherwise.
"""

from dataclasses import dataclass, field
from typing import Any

from m3dt.config.fields import (
    IGNORED,
    Section,
    SettingError,
    Sources,
    choice,
    number,
    path_setting,
    setting,
)
from m3dt.config.presets import BASELINES, COMPAT, METHODS, SIZES

# Widths to which the states and actions of the 160 tasks are padded (paper section 3).
STATE_DIM = 39
ACTION_DIM = 8

LARGEST_MODEL = 10**12  # weights of the blocks

DECAYS = ("none", "cosine", "cooldown")  # of the learning rate
MOE_TRAININGS = ("frozen_experts", "unfrozen_experts", "ungrouped")


@dataclass
class ModelConfig(Section):
    """Prompt-DT: a GPT-2 trunk over (return, state, action) tokens."""

    state_dim: int = number(STATE_DIM, low=1)
    """Width to which states are padded. A task that is wider raises it."""
    action_dim: int = number(ACTION_DIM, low=1)
    """Width to which actions are padded. A task that is wider raises it."""
    n_layer: int = number(6, low=1)
    """Number of transformer blocks."""
    n_head: int = number(8, low=1)
    """Number of attention heads per block."""
    n_embd: int = number(256, low=1)
    """Width of the token embeddings."""
    context_length: int = number(20, low=1)
    """Timesteps per segment; the paper's K."""
    prompt_length: int = number(20, low=1)
    """Timesteps per prompt."""
    dropout: float = number(0.1, low=0, below=1)
    """Probability of dropping a unit."""
    max_timesteps: int = number(1000, low=1)
    """Number of rows in each of the two timestep tables."""
    timestep_std: float = number(1.0, low=0)
    """Standard deviation of the timestep tables' initial values. The authors' code uses 1, which
    drowns the states early in training. With 0.02, the value of all other weights, short trainings
    need half the steps."""
    residual: str = choice("paper", ("paper", "official"))
    """`paper` computes h + FFN(LN h) + Expert(LN h). `official` replaces the first h by LN h, as
    the authors' code does."""
    attention_width: int = number(0, low=0)
    """Width of queries, keys and values, summed over heads. 0 means n_embd (figure 12)."""
    mlp_width: int = number(0, low=0)
    """Hidden width of feed-forward networks and experts. 0 means 4 n_embd (figure 12)."""
    condition_on_return: bool = True
    """Whether the model sees returns-to-go. Otherwise zeros stand in their place, in segments and
    prompts, in training and in acting: behaviour cloning, which ignores the target return."""
    task_embedding: int = number(0, low=0)
    """Width of a learned vector per task that is appended to the states and replaces the prompt
    (MTDT uses 12)."""
    class_path: str = ""
    """Dotted path of a class of your own that is derived from PromptDT (docs/plugging-in.md). Empty
    means m3dt's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        width, hidden = self.attention_width or self.n_embd, self.mlp_width or 4 * self.n_embd
        size = self.n_layer * self.n_embd * (4 * width + 2 * hidden)
        size += 3 * self.n_embd * (self.state_dim + self.action_dim)
        if size > LARGEST_MODEL:
            raise SettingError(
                self,
                f"{{}}, {{}}: {size:.1e} weights are more than any machine holds",
                "n_layer",
                "n_embd",
            )
        split = "attention_width" if self.attention_width else "n_embd"
        if getattr(self, split) % self.n_head:
            raise SettingError(self, "{} is not a multiple of {}", split, "n_head")


@dataclass
class MoEConfig(Section):
    """Experts in parallel with the feed-forward network of every block (paper section 4)."""

    num_experts: int = number(48, low=1)
    """Number of experts, which is also the number of task groups."""
    expert: str = choice("ffn", ("ffn", "trunk"))
    """`ffn` adds a feed-forward network to every block. `trunk` adds a whole transformer between
    the backbone's embeddings and its prediction head (big experts)."""
    top_k: int = number(0, low=0)
    """Number of experts per token, chosen by noisy top-k. 0 uses all experts."""
    router: str = choice("token", ("token", "prompt"))
    """What stage 3 trains to weigh the experts. `token`, the paper's: a router per block, for each
    token. `prompt`: one router that chooses experts once per episode, by the raw prompt."""
    training: str = choice("frozen_experts", MOE_TRAININGS)
    """What stage 3 trains. `frozen_experts`: only the router. `unfrozen_experts`: the router and
    the experts of stage 2. `ungrouped`: the router and fresh experts, without stage 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k > self.num_experts:
            raise SettingError(self, "{} is more than {}", "top_k", "num_experts")
        if self.router == "prompt" and (self.top_k or self.training != "frozen_experts"):
            problem = "{} does not go with {}, {}: it is trained apart from the experts. Choose "
            problem += "evaluation.experts for their number."
            raise SettingError(self, problem, "router", "top_k", "training")


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
    shard: str = setting("0/1", weights=False)
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
    """Number of optimiser steps."""
    learning_rate: float = number(1e-3, above=0)
    """Learning rate of AdamW after the warm-up."""
    weight_decay: float = number(1e-2, low=0)
    """Weight decay of AdamW."""
    warmup_steps: int = number(50, low=0)
    """Number of steps over which the learning rate rises linearly."""
    decay: str = choice("cosine", DECAYS)
    """As for the stages."""
    gradient_clip: float = number(1.0, above=0)
    """Largest global norm of the gradient."""
    batch_size: int = number(256, low=1)
    """Prompts per optimiser step, of as many tasks as there are, in turn."""
    checkpoint_every: int = number(500, low=1, weights=False)
    """Number of steps between two checkpoints."""
    hidden: int = number(256, low=1)
    """Width of the hidden layer."""


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


@dataclass
class Config(Section):
    """A whole experiment."""

    conf: str = "base"
    """Name of the experiment, set by `--conf`."""
    run: str = path_setting()
    """Folder of checkpoints, registry and logs. Empty means runs/<conf>, and runs/<conf>-<method>
    for a variant of M3DT."""
    data: str = path_setting()
    """Folder of the dataset. Empty means data/<suite>."""
    seed: int = number(0, low=0)
    """Seed of initial weights, batches, dropout and task groups."""
    method: str = choice("m3dt-gradient", tuple(METHODS))
    """Method that `m3dt train` trains; see `config/presets.py`."""
    size: str = choice("default", SIZES)
    """`small` has width 128. `large` has about 173 million parameters, through a width of 1536 or
    48 experts (table 4)."""
    compat: str = choice("none", tuple(COMPAT))
    """`official` sets what the authors' checkpoints and datasets need."""
    reuse: str = path_setting()
    """Folder of another run. Models that the same settings, data and parents would make are copied
    from it instead of trained again, and so are their scores."""
    init_from: str = path_setting()
    """Folder of a run whose backbone, or only baseline, gives stage 1 or a baseline its first
    weights: fine-tuning. Empty means random weights."""
    force: bool = False
    """Whether an interrupted training resumes although its settings, data, batch size or devices
    have changed. The changes are recorded with the model."""
    check_data: bool = False
    """Whether the dataset's checksums are compared before training (seconds per gigabyte)."""
    suite: str = "mt160"
    """Task suite: mt10, mt20, mt40, mt80, mt120, mt160 (the paper's lists), any other mtN (chosen
    by the paper's rule), quickstart, or a held-out split such as h25 and h25-train."""
    suite_seed: int = number(0, low=0)
    """Which list of that size to use. The paper's are 0, 1 and 2."""
    tasks: list[str] = field(default_factory=list)
    """Task names that replace those of the suite. Give data=FOLDER with them. Beside the 160 tasks
    and those that `plugins` register, `gym:ID` is a registered gymnasium environment."""
    plugins: list[str] = field(default_factory=list)
    """Modules to import first, also from the working directory. They register tasks of your own
    (`m3dt.register_task`)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    moe: MoEConfig = field(default_factory=MoEConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    stage1: StageConfig = field(default_factory=StageConfig)
    """Training of the backbone."""
    grouping: GroupingConfig = field(default_factory=GroupingConfig)
    stage2: ExpertStageConfig = field(default_factory=ExpertStageConfig)
    """Training of the experts."""
    stage3: FrozenStageConfig = field(default_factory=FrozenStageConfig)
    """Training of the router."""
    prompt_router: PromptRouterConfig = field(default_factory=PromptRouterConfig)
    """Training of the router by prompts, in place of stage 3."""
    # As many steps as the three stages have together.
    baseline: StageConfig = field(default_factory=lambda: StageConfig(max_steps=1_000_000))
    """Training of a method without stages."""
    harmodt: HarmoConfig = field(default_factory=HarmoConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    """Arguments of Lightning's Trainer, by its own names."""
    callbacks: dict[str, Any] = field(default_factory=dict)
    """Callbacks by names of your choice. Each has `class`, a dotted path; optionally `stages`, a
    list; and the arguments of the class. null switches a callback off."""
    loggers: dict[str, Any] = field(default_factory=dict)
    """Loggers beside TensorBoard, by names of your choice. Each has `class`, a dotted path, such as
    lightning.pytorch.loggers.CSVLogger, and the arguments of the class."""
    sources: Sources = field(
        default_factory=Sources, compare=False, repr=False, metadata={IGNORED: True}
    )
    """Where each setting comes from; not a setting itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.task_embedding and self.method not in BASELINES:
            problem = "{} does not go with {}, whose stages tell tasks apart by prompts. Choose "
            problem += f"method={'|'.join(BASELINES)}."
            raise SettingError(self, problem, "model.task_embedding", "method")
