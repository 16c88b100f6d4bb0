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

# How many steps of each task's episode lie between two frames.
TASKS = {"door-open-v2": 1, "walker-walk": 2, "ant-dir-6": 1, "cheetah-vel-33": 1}
FRAMES, SIZE, MILLISECONDS, COLOURS = 80, 180, 60, 64


def strip(agent: m3dt.Agent) -> list[Image.Image]:
    """Return frames with all tasks side by side; an episode that has ended keeps its last one."""
    columns = []
    for task, every in TASKS.items():
        frames = film(AgentPolicy(agent, tasks=[task]), task, max_frames=1_000_000)[::every]
        last = len(frames) - 1
        pictures = [Image.fromarray(frames[min(i, last)]) for i in range(FRAMES)]
        columns.append([np.asarray(picture.resize((SIZE, SIZE))) for picture in pictures])
    joined = [Image.fromarray(np.hstack(row)) for row in zip(*columns, strict=True)]
    return [picture.quantize(COLOURS, dither=Image.Dither.NONE) for picture in joined]


if __name__ == "__main__":
    images = strip(m3dt.load("mt40"))
    rest, pause = images[1:], MILLISECONDS
    images[0].save(sys.argv[1], save_all=True, append_images=rest, duration=pause, loop=0)
