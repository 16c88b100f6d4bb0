"""Stored scores of own tasks are taken only while their code is as it was."""

import json
import subprocess
import sys
from functools import partial

import numpy as np

from m3dt.tasks import get_task
from m3dt.tasks.identity import described, own_identities

PLUGIN = """
import functools
import gymnasium
import m3dt
from gymnasium.spaces import Box

class Env(gymnasium.Env):
    observation_space, action_space = Box(-1, 1, (2,)), Box(-1, 1, (1,))

def shaped(episode_return, success, low=0.0, high=1.0):
    return 100 * (lambda x: (x - low) / (high - low))(episode_return)

def make(size):
    return Env()

score = functools.partial(shaped, high=HIGH)
m3dt.register_task(
    m3dt.TaskSpec("sized", "own", 2, 1, 5, 1.0, 1.0, score), functools.partial(make, SIZE)
)
"""
SHOW = """
import json, sys
import identity_plugin
from m3dt.tasks import get_task
from m3dt.tasks.identity import own_identities
print(json.dumps(own_identities([get_task("sized"), get_task("reach-v2")])))
"""


def identity(folder, plugin):
    """Return what a fresh process says about the task of a plugin."""
    (folder / "identity_plugin.py").write_text(plugin)
    (folder / "show.py").write_text(SHOW)
    words = [sys.executable, "show.py"]
    return json.loads(subprocess.run(words, cwd=folder, check=True, capture_output=True).stdout)


def written(**values):
    text = PLUGIN
    for name, value in {"SIZE": 1, "HIGH": 2.0, **values}.items():
        text = text.replace(name, str(value))
    return text


def test_it_changes_with_the_code_and_with_nothing_else(tmp_path):
    """Two processes say the same; another score, environment or line of the file does not."""
    before = identity(tmp_path, written())
    assert list(before) == ["sized"]  # the 160 have versions
    assert identity(tmp_path, written()) == before
    for changed in (written(SIZE=2), written(HIGH=3.0), written() + "# another line"):
        assert identity(tmp_path, changed)["sized"] != before["sized"]


def scaled(low=0.0):
    def score(episode_return, success):
        return low + episode_return

    return score


class Rule:
    def __init__(self, low):
        self.low = low

    def __call__(self, episode_return, success):
        return self.low


def test_functions_differ_by_their_arguments_and_closures():
    """Their code is the same."""
    rules = [scaled(0.0), scaled(1.0), partial(scaled, 0.0), partial(scaled, low=1.0)]
    rules += [Rule(0.0), Rule(1.0), partial(scaled, np.zeros(2)), partial(scaled, np.ones(2))]
    rules += [Rule(0.0).__call__, Rule(1.0).__call__, partial(scaled, np.float32), np.float64]
    rules += [scaled(np.ndarray), partial(scaled, {"low": [1]}), partial(scaled, {"low": [2]})]
    rules += [lambda r, s: r in {1, 2}, lambda r, s: r in {1, 3}, (0.0, 1.0), (0.0, 2.0), None]
    found = [json.dumps(described(rule)) for rule in rules]
    assert len({*found}) == len(rules) and not any(" at 0x" in text for text in found)
    assert described(scaled(1.0)) == described(scaled(1.0))
    cyclic = {}
    cyclic["own"] = cyclic
    assert json.dumps(described(scaled(cyclic)))
    assert described((0.0, np.float64(1.0))) == described((0.0, 1.0))


def test_a_gymnasium_id_has_the_file_of_its_environment():
    name = "gym:Pendulum-v1"
    identity = own_identities([get_task(name)])
    assert identity[name]["sources"]
