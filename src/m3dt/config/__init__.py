"""From YAML files and `key=value` overrides to one checked, typed configuration."""

from m3dt.config.load import CONF_FOLDERS, find_conf, load_config, save_config, shipped_confs
from m3dt.config.schema import (
    CollectConfig,
    Config,
    EvaluationConfig,
    GroupingConfig,
    LoaderConfig,
    ModelConfig,
    MoEConfig,
    StageConfig,
)

__all__ = [
    "CONF_FOLDERS",
    "CollectConfig",
    "Config",
    "EvaluationConfig",
    "GroupingConfig",
    "LoaderConfig",
    "MoEConfig",
    "ModelConfig",
    "StageConfig",
    "find_conf",
    "load_config",
    "save_config",
    "shipped_confs",
]
