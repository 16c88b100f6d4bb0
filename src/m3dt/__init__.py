"""M3DT: mixture-of-experts Decision Transformers for massive multi-task offline RL.

`m3dt.load(run)` loads a trained agent, `m3dt.evaluate(agent)` rolls it out in the simulators,
`m3dt.register_task(spec, make_env)` makes a task of your own known.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from m3dt.version import __version__

# Intel's MKL otherwise lets the last bits of a product's row depend on its place in the batch, and
# with them weights and scores on what shares a product. MKL reads this at its first product, so it
# is set here, before any module of the package can compute.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
# GNU OpenMP's threads otherwise spin for milliseconds at the end of each operation, and on a busy
# machine they take each other's CPUs. OpenMP reads this when torch loads it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from m3dt.evaluation import Agent, EvaluationResult, evaluate, load
    from m3dt.tasks import TaskSpec, Trajectory, register_task

_ROOMS = {
    "m3dt.evaluation": ("Agent", "EvaluationResult", "evaluate", "load"),
    "m3dt.tasks": ("TaskSpec", "Trajectory", "register_task"),
}
__all__ = [
    "Agent",
    "EvaluationResult",
    "TaskSpec",
    "Trajectory",
    "__version__",
    "evaluate",
    "load",
    "register_task",
]

if not TYPE_CHECKING:  # a type checker should report a misspelt name, not ask this function

    def __getattr__(name: str) -> Any:
        """Import a name at its first use: `import m3dt` loads neither torch nor a simulator."""
        for room, names in _ROOMS.items():
            if name in names:
                return getattr(import_module(room), name)
        raise AttributeError(f"module 'm3dt' has no attribute '{name}'")
