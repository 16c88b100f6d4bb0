"""Trainings that begin from the weights of another run."""

import shutil

import pytest
import torch
from quick_run import call

from m3dt.runs import Registry

FEW = ["method=promptdt", "baseline.max_steps=1", "baseline.learning_rate=1e-12"]


@pytest.fixture
def train(data, tmp_path):
    def run(*overrides, name="run"):
        folder = tmp_path / name
        assert call("train", folder, data, *FEW, *overrides) == 0
        return Registry(folder)

    return run


def weights_of(registry, kind, name):
    return registry.tensors(registry.get(kind, name))


def test_the_first_weights_are_those_of_the_run(train, finished):
    """A step at a rate of almost nothing leaves them there; without the setting they are random."""
    backbone = weights_of(Registry(finished), "backbone", "main")
    tuned = weights_of(train(f"init_from={finished}"), "baseline", "promptdt")
    fresh = weights_of(train(name="fresh"), "baseline", "promptdt")
    for name, tensor in backbone.items():
        torch.testing.assert_close(tuned[name], tensor, rtol=0, atol=1e-6)
    assert not torch.allclose(fresh["predict_action.weight"], backbone["predict_action.weight"])


def test_the_beginning_is_part_of_the_model(train, finished, data, tmp_path, capsys):
    registry = train(f"init_from={finished}")
    entry = registry.get("baseline", "promptdt")
    assert entry.settings["init_from"] == Registry(finished).get("backbone", "main").hash
    assert call("train", tmp_path / "run", data, *FEW) == 2
    assert "init_from was" in capsys.readouterr().err
    again = train(f"init_from={registry.run}", name="again")  # from its only baseline
    assert again.get("baseline", "promptdt").settings["init_from"] == entry.hash


def test_a_finished_run_does_not_need_its_beginning(finished, data, tmp_path, capsys):
    source = shutil.copytree(finished, tmp_path / "source")
    words = [*FEW, f"init_from={source}"]
    assert call("train", tmp_path / "run", data, *words) == 0
    shutil.rmtree(source)
    assert call("train", tmp_path / "run", data, *words) == 0
    assert "finished before" in capsys.readouterr().out


def test_stage_1_begins_there_too(finished, data, tmp_path):
    few = ["stage1.max_steps=1", "stage1.learning_rate=1e-12", f"init_from={finished}"]
    assert call("stage1", tmp_path / "run", data, *few) == 0
    found = weights_of(Registry(tmp_path / "run"), "backbone", "main")
    for name, tensor in weights_of(Registry(finished), "backbone", "main").items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.n_embd=32"], "has shape"),
        (["init_from=nowhere"], "must be a run with a backbone or one baseline; it has no model"),
    ],
)
def test_what_does_not_fit_is_one_message(finished, data, tmp_path, capsys, overrides, message):
    words = [*FEW, f"init_from={finished}", *overrides]
    assert call("train", tmp_path / "run", data, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
