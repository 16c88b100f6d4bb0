"""Whether this machine can draw pictures of a simulation."""

import os
import subprocess
import sys

from m3dt.utils.errors import UserError, nearest

OFF = ("disable", "disabled", "off")  # values of MUJOCO_GL
_NAMES = ("egl", "osmesa", "glfw", "0", "1", "enable", "enabled", "on", "true", "false", *OFF)
_RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
renderer = mujoco.Renderer(model, 8, 8)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
"""


def chosen_backend() -> str:
    """Return the rendering back end that MUJOCO_GL names, or `disable`."""
    return (os.environ.get("MUJOCO_GL") or "disable").lower()


def check_backend_name() -> None:
    """Check MUJOCO_GL, as simulators do when they are imported.

    Raises:
        UserError: They would refuse its value.
    """
    backend = chosen_backend()
    if backend not in _NAMES:
        raise UserError(
            f"MUJOCO_GL={backend} is not one of egl, osmesa, glfw and disable."
            f"{nearest(backend, _NAMES)}"
        )


def can_render(backend: str) -> bool:
    """Tell whether a back end draws, in a process of its own, which a wrong driver may crash."""
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    command = [sys.executable, "-c", _RENDER]
    try:
        drawn = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        return False
    return drawn.returncode == 0


def check_rendering() -> None:
    """Check that pictures can be drawn, before work that ends in one.

    Raises:
        UserError: Rendering is off, or its back end does not work here.
    """
    check_backend_name()
    backend, remedy = chosen_backend(), "Set MUJOCO_GL=egl or MUJOCO_GL=osmesa before Python starts"
    if backend in (*OFF, "0", "false"):
        raise UserError(f"rendering is off. {remedy}.")
    if not can_render(backend):
        raise UserError(
            f"MUJOCO_GL={backend} cannot render on this machine. {remedy}; `m3dt doctor` says "
            "which one works."
        )
