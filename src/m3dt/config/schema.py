"""The schema of an experiment: its sections and the settings above them.

Each setting declares its default, its range and, in the text below it, its meaning; `keys.py` lists
them. Defaults are the paper's (section 5, tables 4 and 5) unless a comment says otherwise.
"""

from dataclasses import dataclass, field
from typing import Any

from m3dt.config.acting_settings import ComputeConfig, EvaluationConfig
from m3dt.config.data_settings import CollectConfig, LoaderConfig
from m3dt.config.fields import (
    IGNORED,
    Section,
    SettingError,
    Sources,
    choice,
    number,
    path_setting,
)
from m3dt.config.method_settings import GroupingConfig, HarmoConfig
from m3dt.config.model_settings import ModelConfig, MoEConfig
from m3dt.config.presets import BASELINES, COMPAT, METHODS, SIZES
from m3dt.config.stage_settings import (
    ExpertStageConfig,
    FrozenStageConfig,
    PromptRouterConfig,
    StageConfig,
)
from m3dt.utils.shell import quoted


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
    """Size of the model. `small` has width 128. `large` has about 173 million parameters, through a
    width of 1536 or 48 experts (table 4)."""
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
    """Name of a list of tasks. The paper's are mt10, mt20, mt40, mt80, mt120 and mt160; its rule
    draws any other mtN. Others are quickstart and held-out splits such as h25 and h25-train."""
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

    @property
    def option(self) -> str:
        """The option that names this experiment in a command, such as `--conf ./own.yaml`."""
        return quoted("--conf", self.sources.conf or self.conf)

    @property
    def options(self) -> str:
        """What names this experiment in a command: `option`, and the overrides it was given."""
        return quoted("--conf", self.sources.conf or self.conf, *self.sources.overrides)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.task_embedding and self.method not in BASELINES:
            problem = "{} does not go with {}, whose stages tell tasks apart by prompts. Choose "
            problem += f"method={'|'.join(BASELINES)}."
            raise SettingError(self, problem, "model.task_embedding", "method")
