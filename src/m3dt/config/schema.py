"""The schema of an experiment: every key, its default and its checks.

Defaults are the paper's (section 5, tables 4 and 5) unless a comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from m3dt.config.presets import BASELINES

# Widths to which every task's states and actions are padded (paper section 3).
STATE_DIM = 39
ACTION_DIM = 8


MOE_TRAININGS = ("frozen_experts", "unfrozen_experts", "ungrouped")


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value} is not one of {', '.join(choices)}")


def _at_least(name: str, value: float, lowest: float) -> None:
    if not value >= lowest:
        raise ValueError(f"{name}={value} must be {lowest} or more")


@dataclass
class ModelConfig:
    """Prompt-DT: a GPT-2 trunk over (return, state, action) tokens."""

    n_layer: int = 6
    n_head: int = 8
    n_embd: int = 256
    context_length: int = 20
    """Timesteps of a segment: the paper's K."""
    prompt_length: int = 20
    """Timesteps of a prompt."""
    dropout: float = 0.1
    max_timesteps: int = 1000
    """Rows of the two timestep tables."""
    timestep_std: float = 1.0
    """Of the timestep tables' first values. The authors' code has 1, under which states are hard to
    see at first; at 0.02, as all other weights have, short trainings need half the steps."""
    residual: str = "paper"
    """`paper`: h + FFN(LN h) + Expert(LN h). `official`: the authors' code, LN h in place of h."""
    attention_width: int = 0
    """Width of queries, keys and values over all heads; 0 means n_embd (figure 12)."""
    mlp_width: int = 0
    """Hidden width of feed-forward networks and experts; 0 means 4 n_embd (figure 12)."""
    task_embedding: int = 0
    """Width of a learned vector a task, appended to its states in place of a prompt (MTDT: 12)."""

    def __post_init__(self) -> None:
        counts = ("n_layer", "n_head", "n_embd", "context_length", "prompt_length", "max_timesteps")
        for name in counts:
            _at_least(f"model.{name}", getattr(self, name), 1)
        for name in ("attention_width", "mlp_width", "task_embedding"):
            _at_least(f"model.{name}", getattr(self, name), 0)
        _at_least("model.timestep_std", self.timestep_std, 0)
        _choice("model.residual", self.residual, ("paper", "official"))
        split = "attention_width" if self.attention_width else "n_embd"
        if getattr(self, split) % self.n_head:
            raise ValueError(
                f"model.{split}={getattr(self, split)} is not a multiple of "
                f"model.n_head={self.n_head}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout={self.dropout} must lie in [0, 1)")


@dataclass
class MoEConfig:
    """Experts beside the feed-forward network of every block (paper section 4)."""

    num_experts: int = 48
    expert: str = "ffn"
    """`ffn`: a feed-forward network beside that of every block. `trunk`: a whole transformer
    between the backbone's embeddings and its prediction head (big experts)."""
    top_k: int = 0
    """Experts that a token is sent to, chosen by noisy top-k; 0 weighs all of them."""
    training: str = "frozen_experts"
    """Stage 3. `frozen_experts`: the router alone trains. `unfrozen_experts`: so do the experts of
    stage 2. `ungrouped`: fresh experts and router train together beside the frozen backbone."""

    def __post_init__(self) -> None:
        _at_least("moe.num_experts", self.num_experts, 1)
        _choice("moe.expert", self.expert, ("ffn", "trunk"))
        _choice("moe.training", self.training, MOE_TRAININGS)
        if not 0 <= self.top_k <= self.num_experts:
            raise ValueError(
                f"moe.top_k={self.top_k} must lie between 0 and moe.num_experts={self.num_experts}"
            )


@dataclass
class CollectConfig:
    """How many trajectories are recorded, and how."""

    trajectories: int = 2000
    """Trajectories per task, the last 2 of which are prompts."""
    workers: int = 0
    """Processes that collect; 0 means one per CPU core."""
    policies: str = ""
    """Folder of behaviour policies that go before those of the package (`m3dt behaviour`)."""
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least("collect.trajectories", self.trajectories, 4)
        _at_least("collect.workers", self.workers, 0)
        _at_least("collect.seed", self.seed, 0)


@dataclass
class LoaderConfig:
    """How batches are drawn from a dataset."""

    batch_size: int = 16
    """Segments of one optimiser step, over all processes (stage 2: of one expert's step)."""
    sampling: str = "one_task"
    """`one_task`: round-robin, one task a step. `mixed`: tasks share the batch in equal parts."""
    tasks_per_batch: int = 0
    """With `mixed`, how many tasks share a batch, in turn; 0 means as many as it has segments."""
    std_floor: float = 0.01
    """Lower bound of a state dimension's standard deviation, where `normalization` is `floored`."""
    normalization: str = "floored"
    """`floored`: by the training trajectories' statistics, as above. `official`: 1e-6 is added to
    the deviation and prompts have statistics of their own, as in the authors' code."""
    num_workers: int = 0

    def __post_init__(self) -> None:
        _at_least("loader.batch_size", self.batch_size, 1)
        _at_least("loader.num_workers", self.num_workers, 0)
        _at_least("loader.tasks_per_batch", self.tasks_per_batch, 0)
        _choice("loader.sampling", self.sampling, ("one_task", "mixed"))
        _choice("loader.normalization", self.normalization, ("floored", "official"))
        if not self.std_floor > 0:
            raise ValueError(f"loader.std_floor={self.std_floor} must be positive")


@dataclass
class StageConfig:
    """One training stage: its length and its AdamW optimiser."""

    max_steps: int = 400_000
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 10_000
    decay: str = "none"
    """After the warm-up: `none` keeps the learning rate, `cosine` takes it to zero at max_steps."""
    gradient_clip: float = 0.25
    """Largest global norm of the gradient (stage 2: of each expert's own gradient)."""
    batch_size: int = 0
    """Segments of an optimiser step; 0 means loader.batch_size."""
    checkpoint_every: int = 5000
    max_bad_steps: int = 10
    """Steps that are skipped because loss or gradient is not finite; one more ends the training."""
    frozen_dropout: bool = False
    """Whether dropout is on in frozen parts too, as in the authors' code."""
    shard: str = "0/1"
    """Stage 2 only: `i/n` trains the experts k with k % n == i, so that n jobs share the work."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "checkpoint_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("warmup_steps", "weight_decay", "max_bad_steps", "batch_size"):
            _at_least(name, getattr(self, name), 0)
        _choice("decay", self.decay, ("none", "cosine"))
        for name in ("learning_rate", "gradient_clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        index, _, count = self.shard.partition("/")
        if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
            raise ValueError(f"shard={self.shard} must read i/n with 0 <= i < n, such as 0/4")

    def shard_numbers(self) -> tuple[int, int]:
        """Return i and n of the shard `i/n`."""
        index, count = self.shard.split("/")
        return int(index), int(count)


def _expert_stage() -> StageConfig:
    return StageConfig(max_steps=200_000)


def _baseline_stage() -> StageConfig:
    # As many steps as the three stages have together.
    return StageConfig(max_steps=1_000_000)


@dataclass
class GroupingConfig:
    """How tasks are divided among the experts (paper section 4.2, appendix C)."""

    method: str = "gradient"
    """`random`: equal chunks of a shuffle. `gradient`: K-means on the agreement vectors."""
    num_batches: int = 10
    """Batches whose mean gradient stands for a task."""
    gradient_clip: float = 0.0
    """Largest norm of one batch's gradient in that mean; 0 takes it as it is, the authors' code has
    0.25."""
    restarts: int = 40
    """K-means runs, of which the one with the most even group sizes is kept."""
    memory_gb: float = 1.0
    """Memory for the gradients of all tasks over one block of parameters."""

    def __post_init__(self) -> None:
        _choice("grouping.method", self.method, ("random", "gradient"))
        for name in ("num_batches", "restarts"):
            _at_least(f"grouping.{name}", getattr(self, name), 1)
        _at_least("grouping.gradient_clip", self.gradient_clip, 0)


@dataclass
class HarmoConfig:
    """HarmoDT: a mask over the parameters for each task (Hu et al. 2024)."""

    sparsity: float = 0.2
    """Share of each task's parameters that are masked out."""
    update_every: int = 500
    """Steps between two revisions of the masks."""
    max_changed: int = 100
    """Parameters of a task that a revision exchanges at most, in the middle of training."""
    gamma: float = 10.0
    """Weight of agreement beside importance when parameters are pruned."""
    importance: str = "gradient"
    """`gradient`: squared gradient. `weight`: magnitude of the parameter."""

    def __post_init__(self) -> None:
        _at_least("harmodt.update_every", self.update_every, 1)
        _at_least("harmodt.max_changed", self.max_changed, 0)
        _choice("harmodt.importance", self.importance, ("gradient", "weight"))
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"harmodt.sparsity={self.sparsity} must lie in [0, 1)")


@dataclass
class EvaluationConfig:
    """Rollouts in the simulators."""

    episodes: int = 10
    """Episodes per task."""
    workers: int = 0
    """Processes that step environments; 0 means one per CPU core."""
    tile: int = 10
    """Episodes of one task that a worker steps together."""
    batch_size: int = 10
    """Episodes that share a forward pass, of one task or several. Every pass has as many rows,
    filled up with copies: with one shape, on one CPU thread, a row rounds alike in any company, and
    a score depends on neither workers nor tasks. Small models gain by 16 or 32 where tasks have few
    episodes, GPUs by more."""
    target: str = "paper"
    """Return to ask for: `paper`, the domain's constant, or `data`, the task's best in the data."""
    history: str = "auto"
    """What the agent remembers of its actions: `real_dims`, with zeros in the task's padding, as in
    training, or `all_dims`, as in the authors' code; `auto` takes `all_dims` for their models."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("episodes", "tile", "batch_size"):
            _at_least(f"evaluation.{name}", getattr(self, name), 1)
        if self.tile > self.batch_size:
            raise ValueError(
                f"evaluation.tile={self.tile} is more than evaluation.batch_size={self.batch_size}"
            )
        _at_least("evaluation.workers", self.workers, 0)
        _at_least("evaluation.seed", self.seed, 0)
        _choice("evaluation.target", self.target, ("paper", "data"))
        _choice("evaluation.history", self.history, ("auto", "real_dims", "all_dims"))


@dataclass
class ComputeConfig:
    """Shortcuts that change how results are computed, and nothing but rounding in them."""

    shortcuts: str = "on"
    """`off`: train by the plain model, which is slower and easy to follow."""
    share_prompts: str = "auto"
    """Whether each distinct prompt of a batch is encoded once and read by all of its rows; with
    dropout its rows then share its units. `auto`: where at most half as many prompts as rows."""
    experts: str = "auto"
    """Mixing experts that do not train. `in_turn`: one after the other, in little memory;
    `together`: as one batched product; `auto`: in turn on a CPU."""

    def __post_init__(self) -> None:
        _choice("compute.shortcuts", self.shortcuts, ("on", "off"))
        _choice("compute.share_prompts", self.share_prompts, ("auto", "on", "off"))
        _choice("compute.experts", self.experts, ("auto", "in_turn", "together"))


@dataclass
class Config:
    """A whole experiment."""

    conf: str = "base"
    """Name of the experiment, set by `--conf`."""
    run: str = ""
    """Folder of checkpoints, registry and logs; empty means runs/<conf>, and for a variant of M3DT
    runs/<conf>-<method>."""
    data: str = ""
    """Folder of the dataset; empty means data/<suite>."""
    seed: int = 0
    method: str = "m3dt-gradient"
    """What `m3dt train` trains; see `config/methods.py`."""
    size: str = "default"
    """`small`: width 128. `large`: about 173 million parameters, by a width of 1536 or 48 experts
    (table 4)."""
    compat: str = "none"
    """`official` sets what checkpoints and datasets of the authors need."""
    reuse: str = ""
    """Folder of another run: models that the same settings, data and parents would make are taken
    from it in place of training them again, and so are their scores."""
    force: bool = False
    """Whether an interrupted training goes on although its settings, data, batch or devices have
    changed; what changed is recorded with the model."""
    check_data: bool = False
    """Whether the checksums of the data are compared before training (seconds per gigabyte)."""
    suite: str = "mt160"
    """Task suite: mt10, mt20, mt40, mt80, mt120, mt160 (the paper's lists), any other mtN (chosen
    by the paper's rule) or quickstart."""
    suite_seed: int = 0
    """Which list of that size; the paper's are 0, 1 and 2."""
    tasks: list[str] = field(default_factory=list)
    """Task names in place of a suite's; give data=FOLDER with them."""
    model: ModelConfig = field(default_factory=ModelConfig)
    moe: MoEConfig = field(default_factory=MoEConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    stage1: StageConfig = field(default_factory=StageConfig)
    grouping: GroupingConfig = field(default_factory=GroupingConfig)
    stage2: StageConfig = field(default_factory=_expert_stage)
    stage3: StageConfig = field(default_factory=StageConfig)
    baseline: StageConfig = field(default_factory=_baseline_stage)
    """Training of a method without stages."""
    harmodt: HarmoConfig = field(default_factory=HarmoConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    """Arguments of lightning's Trainer, by its own names."""
    callbacks: dict[str, Any] = field(default_factory=dict)
    """Callbacks by free names: `class`, a dotted path, `stages`, a list, and its arguments;
    null switches one off."""

    def __post_init__(self) -> None:
        _at_least("seed", self.seed, 0)
        _at_least("suite_seed", self.suite_seed, 0)
        if self.model.task_embedding and self.method not in BASELINES:
            raise ValueError(
                f"model.task_embedding={self.model.task_embedding}: the stages of M3DT tell tasks "
                f"apart by prompts. It goes with method={'|'.join(BASELINES)}."
            )
