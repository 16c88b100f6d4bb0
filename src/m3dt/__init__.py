"""M3DT: mixture-of-experts Decision Transformers for massive multi-task offline RL.

`m3dt.load(run)` gives a trained agent, `m3dt.evaluate(agent)` rolls it out in the simulators.
"""

from __future__ import annotations

from typing import Any

from m3dt.version import __version__

__all__ = ["__version__", "evaluate", "load"]


def __getattr__(name: str) -> Any:
    # Resolved when asked for: `import m3dt` loads neither torch nor a simulator.
    if name == "load":
        from m3dt.evaluation.agent import load

        return load
    if name == "evaluate":
        from m3dt.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module 'm3dt' has no attribute '{name}'")
