"""From YAML files and `key=value` overrides to one checked, typed configuration."""

from m3dt.config.fields import weight_settings
from m3dt.config.load import (
    CONF_FOLDERS,
    find_conf,
    load_config,
    read_yaml,
    save_config,
    shipped_confs,
)
from m3dt.config.presets import BASELINES, METHODS, SIZES
from m3dt.config.schema import (
    CollectConfig,
    ComputeConfig,
    Config,
    EvaluationConfig,
    GroupingConfig,
    HarmoConfig,
    LoaderConfig,
    ModelConfig,
    MoEConfig,
    StageConfig,
)

__all__ = [
    "BASELINES",
    "CONF_FOLDERS",
    "CollectConfig",
    "ComputeConfig",
    "Config",
    "EvaluationConfig",
    "GroupingConfig",
    "HarmoConfig",
    "METHODS",
    "SIZES",
    "LoaderConfig",
    "MoEConfig",
    "ModelConfig",
    "StageConfig",
    "find_conf",
    "load_config",
    "read_yaml",
    "save_config",
    "shipped_confs",
    "weight_settings",
]
