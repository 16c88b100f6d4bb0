"""The 11 custom DMControl tasks: models of the suite, mostly with new rewards.

The rewards accept numbers and arrays, so single environments and batched simulations share them.
Lengths are in m, velocities in m/s or rad/s.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from dm_control.rl import control
from dm_control.suite import ball_in_cup, cheetah, hopper, pendulum, reacher, walker
from dm_control.utils.rewards import tolerance
from lxml import etree

Value = Any  # a float or an array


def cheetah_backwards_reward(speed: Value) -> Value:
    """Reward running backwards, linearly up to 8 m/s."""
    return tolerance(speed, (-np.inf, -8), margin=8, value_at_margin=0, sigmoid="linear")


def one_foot_reward(torso_height: Value, raised_foot_height: Value, speed: Value) -> Value:
    """Reward running at 6 m/s with the torso and one foot raised."""
    torso_up = tolerance(torso_height, (1.2, np.inf), margin=0.6)
    foot_up = tolerance(raised_foot_height, (1.2, np.inf), margin=0.6)
    fast = tolerance(speed, (6, np.inf), margin=6, value_at_margin=0, sigmoid="linear")
    return (3 * foot_up + 2 * torso_up) / 5 * (5 * fast + 1) / 6


def jump_reward(torso_height: Value, feet_heights: tuple[Value, Value], speed: Value) -> Value:
    """Reward the height of torso and feet, and standing still."""
    still = tolerance(speed, (-0.5, 0.5), margin=0.5, value_at_margin=0, sigmoid="linear")
    heights = [tolerance((torso_height + z) / 2, (1.2, np.inf), margin=0.6) for z in feet_heights]
    return (5 * (heights[0] + heights[1]) / 2 + still) / 6


def walker_stand_reward(height: Value, upright: Value) -> Value:
    """Reward the height of the torso and its upright orientation."""
    standing = tolerance(height, (1.2, np.inf), margin=0.6)
    return (3 * standing + (1 + upright) / 2) / 4


def walker_backwards_reward(height: Value, upright: Value, speed: Value, pace: float) -> Value:
    """Reward walking upright and backwards at `pace` m/s."""
    stand = walker_stand_reward(height, upright)
    bounds = (-np.inf, -pace)
    move = tolerance(speed, bounds, margin=pace / 2, value_at_margin=0.5, sigmoid="linear")
    return stand * (5 * move + 1) / 6


def hopper_backwards_reward(height: Value, speed: Value) -> Value:
    """Reward hopping backwards at 1 m/s with the torso 0.6 m above the foot."""
    hopping = tolerance(speed, (-np.inf, -1), margin=0.5, value_at_margin=0.5, sigmoid="linear")
    return tolerance(height, (0.6, 2)) * hopping


def pendulum_spin_reward(angular_velocity: Value) -> Value:
    """Reward rotating at 9 rad/s in either direction."""
    return tolerance(
        abs(angular_velocity), (9, np.inf), margin=4.5, value_at_margin=0.5, sigmoid="linear"
    )


def cup_spin_reward(distance: Value, ball_speed: Value, inside: Value) -> Value:
    """Reward a fast ball that is far from the cup."""
    far = tolerance(distance, (0.5, np.inf), margin=0.25, value_at_margin=0.5, sigmoid="linear")
    fast = tolerance(ball_speed, (6, np.inf), margin=3, value_at_margin=0.5, sigmoid="linear")
    return (1 - inside) * (far + 2 * fast) / 3


class _CheetahBackwards(cheetah.Cheetah):
    def get_reward(self, physics: cheetah.Physics) -> float:
        return cheetah_backwards_reward(physics.speed())


class _CheetahOneFoot(cheetah.Cheetah):
    def __init__(self, raised_foot: str) -> None:
        super().__init__()
        self._raised_foot = raised_foot

    def get_reward(self, physics: cheetah.Physics) -> float:
        height = physics.named.data.xpos
        raised = height[self._raised_foot, "z"]
        return one_foot_reward(height["torso", "z"], raised, physics.speed())


class _CheetahJump(cheetah.Cheetah):
    def get_reward(self, physics: cheetah.Physics) -> float:
        height = physics.named.data.xpos
        feet = (height["bfoot", "z"], height["ffoot", "z"])
        return jump_reward(height["torso", "z"], feet, physics.speed())


class _WalkerBackwards(walker.PlanarWalker):
    def get_reward(self, physics: walker.Physics) -> float:
        height, upright = physics.torso_height(), physics.torso_upright()
        speed = physics.horizontal_velocity()
        return walker_backwards_reward(height, upright, speed, self._move_speed)


class _HopperBackwards(hopper.Hopper):
    def get_reward(self, physics: hopper.Physics) -> float:
        return hopper_backwards_reward(physics.height(), physics.speed())


class _PendulumSpin(pendulum.SwingUp):
    def get_reward(self, physics: pendulum.Physics) -> float:
        return pendulum_spin_reward(physics.angular_velocity()[0])


class _CupSpin(ball_in_cup.BallInCup):
    def initialize_episode(self, physics: ball_in_cup.Physics) -> None:
        """Place the ball without contact: inside the cup, or anywhere in one of ten episodes."""
        anywhere = self.random.uniform() < 0.1
        while True:
            physics.named.data.qpos["ball_x"] = self.random.uniform(-0.2, 0.2)
            physics.named.data.qpos["ball_z"] = self.random.uniform(0.2, 0.5)
            physics.after_reset()
            if physics.data.ncon == 0 and (anywhere or physics.in_target()):
                break
        super(ball_in_cup.BallInCup, self).initialize_episode(physics)

    def get_reward(self, physics: ball_in_cup.Physics) -> float:
        velocity = physics.named.data.qvel
        speed = np.hypot(velocity["ball_x"][0], velocity["ball_z"][0])
        distance = np.linalg.norm(physics.ball_to_target())
        return cup_spin_reward(distance, speed, physics.in_target())


def three_link_reacher() -> bytes:
    """Return the XML of the suite's reacher with a third link and a second limited joint."""
    root = etree.fromstring(reacher.get_model_and_assets()[0])
    world = root.find("worldbody")
    world.remove(world.find("body[@name='arm']"))
    arm = """
    <body name="arm0" pos="0 0 .01">
      <geom name="arm0" type="capsule" fromto="0 0 0 .09 0 0" size=".01" material="self"/>
      <joint name="shoulder0"/>
      <body name="arm1" pos=".09 0 0">
        <geom name="arm1" type="capsule" fromto="0 0 0 .09 0 0" size=".01" material="self"/>
        <joint name="shoulder1" limited="true" range="-80 80"/>
        <body name="hand" pos=".09 0 0">
          <geom name="hand" type="capsule" fromto="0 0 0 .1 0 0" size=".01" material="self"/>
          <joint name="wrist" limited="true" range="-80 80"/>
          <body name="finger" pos=".09 0 0">
            <camera name="hand" pos="0 0 .2" mode="track"/>
            <geom name="finger" type="sphere" size=".01" material="effector"/>
          </body>
        </body>
      </body>
    </body>"""
    target = world.find("geom[@name='target']")
    target.addprevious(etree.fromstring(arm))
    actuator = root.find("actuator")
    for motor in list(actuator):
        actuator.remove(motor)
    for joint in ("shoulder0", "shoulder1", "wrist"):
        etree.SubElement(actuator, "motor", name=joint, joint=joint)
    return etree.tostring(root)


def _environment(
    module: Any, task: Callable[[], Any], model: Callable[[], bytes] | None = None
) -> control.Environment:
    """Build a task with a suite module's time limit and control step, on its model or another."""
    xml, assets = module.get_model_and_assets()
    return control.Environment(
        module.Physics.from_xml_string(model() if model else xml, assets),
        task(),
        time_limit=module._DEFAULT_TIME_LIMIT,
        control_timestep=getattr(module, "_CONTROL_TIMESTEP", None),
    )


def _three_link_environment(target_size: float) -> control.Environment:
    return _environment(reacher, partial(reacher.Reacher, target_size), three_link_reacher)


CUSTOM: dict[str, Callable[[], control.Environment]] = {
    "walker-walk-backwards": partial(_environment, walker, lambda: _WalkerBackwards(1)),
    "walker-run-backwards": partial(_environment, walker, lambda: _WalkerBackwards(8)),
    "cheetah-run-backwards": partial(_environment, cheetah, _CheetahBackwards),
    "cheetah-run-front": partial(_environment, cheetah, lambda: _CheetahOneFoot("bfoot")),
    "cheetah-run-back": partial(_environment, cheetah, lambda: _CheetahOneFoot("ffoot")),
    "cheetah-jump": partial(_environment, cheetah, _CheetahJump),
    "hopper-hop-backwards": partial(_environment, hopper, lambda: _HopperBackwards(True)),
    "reacher-three-easy": partial(_three_link_environment, reacher._BIG_TARGET),
    "reacher-three-hard": partial(_three_link_environment, reacher._SMALL_TARGET),
    "cup-spin": partial(_environment, ball_in_cup, _CupSpin),
    "pendulum-spin": partial(_environment, pendulum, _PendulumSpin),
}
"""Builder of each custom task's environment, by task name."""
