"""The 160 tasks in the paper's order."""

import math

from m3dt.tasks.spec import TaskSpec, score_of_success

# Packages whose versions determine how a task behaves.
SIMULATORS = ("metaworld", "dm_control", "gymnasium", "mujoco")
DOMAINS = ("metaworld", "dmcontrol", "cheetah-vel", "ant-dir")

_METAWORLD = """
basketball bin-picking button-press-topdown button-press button-press-wall coffee-button coffee-pull
coffee-push dial-turn disassemble door-close door-lock door-open door-unlock hand-insert
drawer-close drawer-open faucet-open faucet-close handle-press-side handle-press handle-pull-side
handle-pull lever-pull peg-insert-side pick-place-wall pick-out-of-hole reach push-back push
pick-place plate-slide plate-slide-side plate-slide-back plate-slide-back-side soccer push-wall
shelf-place sweep-into sweep window-open window-close assembly button-press-topdown-wall hammer
peg-unplug-side reach-wall stick-push stick-pull box-close
""".split()

# name: (state_dim, action_dim), in the paper's order; the custom tasks are the last 11.
_DMCONTROL = {
    "walker-stand": (24, 6), "walker-walk": (24, 6), "walker-run": (24, 6), "cheetah-run": (17, 6),
    "reacher-easy": (6, 2), "reacher-hard": (6, 2), "acrobot-swingup": (6, 1),
    "pendulum-swingup": (3, 1), "cartpole-balance": (5, 1), "cartpole-balance-sparse": (5, 1),
    "cartpole-swingup": (5, 1), "cartpole-swingup-sparse": (5, 1), "cup-catch": (8, 2),
    "finger-spin": (9, 2), "finger-turn-easy": (12, 2), "finger-turn-hard": (12, 2),
    "fish-swim": (24, 5), "hopper-stand": (15, 4), "hopper-hop": (15, 4),
    "walker-walk-backwards": (24, 6), "walker-run-backwards": (24, 6),
    "cheetah-run-backwards": (17, 6), "cheetah-run-front": (17, 6), "cheetah-run-back": (17, 6),
    "cheetah-jump": (17, 6), "hopper-hop-backwards": (15, 4), "reacher-three-easy": (8, 3),
    "reacher-three-hard": (8, 3), "cup-spin": (8, 2), "pendulum-spin": (3, 1),
}  # fmt: skip

# Radians. The paper drew them uniformly once and then kept them.
_ANT_DIRECTIONS = """
1.203361 0.426631 4.944775 4.123865 4.005662 3.616620 0.245440 2.248209 5.941903 0.377272
5.428937 5.512179 0.321659 4.099267 3.466756 3.754286 3.038100 1.778067 1.870666 3.528065
2.488439 4.955553 2.629415 0.904175 0.948175 0.347092 4.511561 1.836684 1.248933 5.223614
3.568793 0.517356 3.424327 0.998767 4.252223 0.744383 2.795993 5.579358 5.009381 0.427123
""".split()

# m/s, evenly spaced up to 3.
_CHEETAH_VELOCITIES = [3.0 * (i + 1) / 40 for i in range(40)]


def _catalog() -> dict[str, TaskSpec]:
    """Return the tasks with their scores (paper section 5.1).

    Meta-World tasks score 100 if any step was a success. DMControl divides the return by its
    maximum of 1000. The locomotion domains map their range of returns to [0, 100].
    """
    specs = [
        TaskSpec(f"{name}-v2", "metaworld", 39, 4, 500, 4500, 1000, score_of_success, f"{name}-v3")
        for name in _METAWORLD
    ]
    specs += [
        TaskSpec(name, "dmcontrol", state_dim, action_dim, 500, 1000, 200, (0, 1000), name)
        for name, (state_dim, action_dim) in _DMCONTROL.items()
    ]
    specs += [
        TaskSpec(f"ant-dir-{i}", "ant-dir", 27, 8, 200, 500, 500, (0, 500), "ant", float(goal))
        for i, goal in enumerate(_ANT_DIRECTIONS)
    ]
    specs += [
        TaskSpec(
            f"cheetah-vel-{i}", "cheetah-vel", 20, 6, 200, 0, 200, (-100, -30), "half_cheetah", goal
        )
        for i, goal in enumerate(_CHEETAH_VELOCITIES)
    ]
    assert all(spec.goal is None or 0 <= spec.goal < 2 * math.pi for spec in specs)
    return {spec.name: spec for spec in specs}


TASKS = _catalog()
