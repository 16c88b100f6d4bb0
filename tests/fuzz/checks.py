"""What must hold of results that a command calls done, computed without the code under test."""

import hashlib
import json
import math

import h5py
import numpy as np
import torch
from conftest import SYNTHETIC_TASKS
from safetensors.torch import load_file

from m3dt.config import load_config, save_config
from m3dt.tasks import get_task

ARRAYS = (
    "observations", "actions", "rewards", "episode_ends", "episode_returns", "successes"
)  # fmt: skip


def digest_of(path):
    if not path.is_file():  # reading a FIFO would wait
        raise FileNotFoundError(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_dataset(folder):
    """Check everything about a dataset that was called sound."""
    tasks = json.loads((folder / "dataset.json").read_text())["tasks"]
    assert {name for name, entry in tasks.items()} <= set(SYNTHETIC_TASKS)
    for name, entry in tasks.items():
        path, spec = folder / entry["file"], get_task(name)
        assert path.resolve().parent == folder.resolve() and path.is_file()
        assert entry["sha256"] == digest_of(path) and entry["env_id"] == spec.env_id
        with h5py.File(path) as file:
            arrays = {array: file[array][()] for array in ARRAYS}
            attributes = dict(file.attrs)
        states, actions, rewards, ends, returns, successes = arrays.values()
        assert states.shape == (len(rewards), spec.state_dim)
        assert actions.shape == (len(rewards), spec.action_dim)
        assert all(np.abs(array).max() <= 1e10 for array in (states, rewards, returns))
        assert np.abs(actions).max() <= 1 + 1e-5
        lengths = np.diff(ends, prepend=0)
        assert (
            3 <= len(ends) == entry["trajectories"] and ends[-1] == len(rewards) == entry["steps"]
        )
        assert lengths.min() >= 1 and lengths.max() <= spec.horizon
        sums = [part.sum() for part in np.split(rewards.astype(np.float64), ends[:-1])]
        np.testing.assert_allclose(returns, sums, rtol=1e-4, atol=2e-2)
        assert len(successes) == len(ends) and set(successes.tolist()) <= {0, 1}
        np.testing.assert_allclose(
            entry["return_quartiles"], np.quantile(returns, [0, 0.25, 0.5, 0.75, 1]), atol=0.02
        )
        training = states[: ends[-3]].astype(np.float64)
        np.testing.assert_allclose(attributes["state_mean"], training.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(attributes["state_std"], training.std(0), rtol=1e-4, atol=1e-4)
        assert attributes.get("task", name) == name


def check_entry(run, key):
    """Check an entry of a run against its files, and return its content."""
    folder = run / "registry" / key
    assert (folder / "entry.json").is_file(), folder  # reading a FIFO would wait
    content = json.loads((folder / "entry.json").read_text())
    assert f"{content['kind']}/{content['name']}" == key
    sealed = {name: value for name, value in content.items() if name != "digest"}
    written = json.dumps(sealed, sort_keys=True).encode()
    assert content["digest"] == hashlib.sha256(written).hexdigest()
    for name, digest in content["files"].items():
        assert digest == digest_of(folder / name), folder / name
    return content


def check_listed(run):
    """Check every entry of a run, and return the entries' contents by key."""
    paths = sorted((run / "registry").glob("[!.]*/[!.]*/entry.json"))
    keys = ["/".join(path.parts[-3:-1]) for path in paths]
    return {key: check_entry(run, key) for key in keys}


def check_registered(run):
    """Check that all tensors of a run are finite too."""
    found = check_listed(run)
    for path in (run / "registry" / key / name for key in found for name in found[key]["files"]):
        for tensor in load_file(path).values():
            assert not tensor.is_floating_point() or tensor.isfinite().all(), path
    return found


def check_lineage(run, key, acts=False):
    """Check that a model and its parents were trained on what is registered now.

    A model that acts needs no groups of tasks any more. Returns the entries' contents by key.
    """
    content = check_entry(run, key)
    found = {key: content}
    for parent, digest in content["parents"].items():
        if not (acts and parent == "grouping/main"):
            found |= check_lineage(run, parent, acts)
            assert found[parent]["files"]["weights.safetensors"] == digest, (key, parent)
    return found


def check_agent(agent, run):
    """Check that an agent has the weights, tasks and task data of its run's files."""
    key, root = agent.entry.key, "backbone/main"
    found = check_lineage(run, key, acts=True)
    assert key == root or root in found[key]["parents"]
    state = agent.model.state_dict()
    for name, tensor in load_file(run / "registry" / root / "weights.safetensors").items():
        assert torch.equal(state[name], tensor.float()), name
    if "tasks.safetensors" in found[root]["files"]:
        assert list(agent.context.tasks) == found[root]["tasks"]
        data = load_file(run / "registry" / root / "tasks.safetensors")
        for name, tensor in agent.context.tensors().items():
            assert torch.equal(tensor, data[name].to(tensor.dtype)), name
    else:  # as imported without a dataset
        assert not agent.context.tasks
    if not key.startswith("router"):
        return
    if key == "router/prompt":
        weights = load_file(run / "registry" / key / "weights.safetensors")
        own = agent.model.prompt_router.state_dict()
        assert own.keys() == weights.keys()
        assert all(torch.equal(own[name], weights[name].float()) for name in own)
    experts = [parent for parent in found[key]["parents"] if parent.startswith("expert/")]
    for number, expert in enumerate(experts):
        weights = load_file(run / "registry" / expert / "weights.safetensors")
        for layer, mixture in enumerate(agent.model.mixtures):
            for name, tensor in mixture.experts.weights_of(number).items():
                assert torch.equal(tensor, weights[f"{layer}.{name}"].float()), name


def check_same_weights(run, sound, keys, close=False):
    """Check that models have the weights of another run, to the bit unless `close`."""
    check_registered(run)
    for key in keys:
        one, other = (load_file(r / "registry" / key / "weights.safetensors") for r in (run, sound))
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            limits = {"rtol": 1e-3, "atol": 1e-4} if close else {"rtol": 0, "atol": 0}
            torch.testing.assert_close(tensor, other[name], **limits)


def check_scores(result, tasks, episodes=1):
    """Check that scores are whole, finite and follow from those of the tasks."""
    numbers = [result["score"], *(result["ci95"] or ()), *result["domains"].values()]
    assert list(result["tasks"]) == list(tasks)
    for name, task in result["tasks"].items():
        assert task["episodes"] == episodes and 0 < task["env_steps"] <= get_task(name).horizon
        numbers += [task["score"], task["return_mean"], task["return_std"], *(task["ci95"] or ())]
        assert 0 <= task["score"] <= 100
    assert all(math.isfinite(number) for number in numbers)
    mean = np.mean([task["score"] for task in result["tasks"].values()])
    np.testing.assert_allclose(result["score"], mean, rtol=1e-12)


def check_sound_scores(result, expected):
    """Check that scores are those of a sound run, which does not depend on the time they took."""
    check_scores(result, expected["tasks"])
    for key in ("tasks", "score", "ci95", "domains", "weights", "method", "step"):
        assert result[key] == expected[key], key


def check_round_trip(config, folder):
    """Check that a configuration is written so that the same one is read."""
    one, other = folder / "own.yaml", folder / "again.yaml"
    save_config(config, one)
    save_config(load_config(one), other)
    texts = [path.read_text().splitlines() for path in (one, other)]
    without_name = [[line for line in text if not line.startswith("conf:")] for text in texts]
    assert without_name[0] == without_name[1]
