"""Read a configuration together with the tasks that it names."""

from collections.abc import Sequence
from pathlib import Path

from m3dt.config import Config, load_config
from m3dt.tasks.registration import get_task, import_plugins
from m3dt.tasks.suites import tasks_of


def load_experiment(conf: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load a configuration, import its plugins, and widen its model for its tasks.

    Args:
        conf: Name of a file in `conf/`, or a path.
        overrides: Settings by dotted keys, such as `stage1.max_steps=100`.

    Raises:
        UserError: A key, a value, a task or a plugin is wrong.
    """
    config = load_config(conf, overrides)
    import_plugins(config.plugins, f"{config.sources.of('plugins')}: plugins")
    specs = [get_task(task) for task in tasks_of(config)]
    model = config.model
    model.state_dim = max(model.state_dim, *(spec.state_dim for spec in specs))
    model.action_dim = max(model.action_dim, *(spec.action_dim for spec in specs))
    return config
