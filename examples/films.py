"""Film four tasks side by side, played by the agent that m3dt ships.

Run `MUJOCO_GL=egl python examples/films.py docs/films.gif`, on a machine without a GPU with
`MUJOCO_GL=osmesa`.
"""

import sys

import numpy as np
from PIL import Image

import m3dt
from m3dt.evaluation.policies import AgentPolicy
from m3dt.evaluation.video import film

# Of each task's episode, the first frame and how many steps lie between two frames.
TASKS = {
    "door-open-v2": (0, 1),
    "walker-walk": (0, 2),
    "ant-dir-6": (0, 1),
    "cheetah-vel-33": (0, 1),
}
FRAMES, SIZE, MILLISECONDS, COLOURS = 80, 180, 60, 64


def strip(agent: m3dt.Agent) -> list[Image.Image]:
    """Return frames with all tasks side by side; an episode that has ended keeps its last one."""
    columns = []
    for task, (first, every) in TASKS.items():
        frames = film(AgentPolicy(agent, tasks=[task]), task, max_frames=1_000_000)[first::every]
        last = len(frames) - 1
        pictures = [Image.fromarray(frames[min(i, last)]) for i in range(FRAMES)]
        columns.append([np.asarray(picture.resize((SIZE, SIZE))) for picture in pictures])
    joined = [Image.fromarray(np.hstack(row)) for row in zip(*columns, strict=True)]
    return [picture.quantize(COLOURS, dither=Image.Dither.NONE) for picture in joined]


if __name__ == "__main__":
    images = strip(m3dt.load("mt40"))
    rest, pause = images[1:], MILLISECONDS
    images[0].save(sys.argv[1], save_all=True, append_images=rest, duration=pause, loop=0)
