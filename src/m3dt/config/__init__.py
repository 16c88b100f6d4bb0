"""From YAML files and `key=value` overrides to one checked, typed configuration."""

from m3dt.config.acting_settings import ComputeConfig, EvaluationConfig
from m3dt.config.data_settings import CollectConfig, LoaderConfig
from m3dt.config.fields import weight_settings
from m3dt.config.keys import Key, all_keys, section_meanings
from m3dt.config.load import (
    DEFAULT_CONF,
    config_values,
    find_conf,
    find_study,
    load_config,
    read_yaml,
    save_config,
    shipped_confs,
    shipped_studies,
)
from m3dt.config.method_settings import GroupingConfig, HarmoConfig
from m3dt.config.model_settings import ModelConfig, MoEConfig
from m3dt.config.presets import BASELINES, METHODS, SIZES
from m3dt.config.schema import Config
from m3dt.config.stage_settings import (
    ExpertStageConfig,
    FrozenStageConfig,
    PromptRouterConfig,
    StageConfig,
)

__all__ = [
    "BASELINES",
    "CollectConfig",
    "ComputeConfig",
    "Config",
    "DEFAULT_CONF",
    "EvaluationConfig",
    "ExpertStageConfig",
    "FrozenStageConfig",
    "GroupingConfig",
    "HarmoConfig",
    "Key",
    "LoaderConfig",
    "METHODS",
    "MoEConfig",
    "ModelConfig",
    "PromptRouterConfig",
    "SIZES",
    "StageConfig",
    "all_keys",
    "config_values",
    "find_conf",
    "find_study",
    "load_config",
    "read_yaml",
    "save_config",
    "section_meanings",
    "shipped_confs",
    "shipped_studies",
    "weight_settings",
]
