"""What `m3dt config` prints: each key's value, source and meaning; the list of keys."""

import subprocess
import sys

import pytest

from m3dt.cli import main
from m3dt.config import all_keys, config_values, load_config
from m3dt.tasks.experiment import load_experiment

OWN = """
suite: mt10
stage1:
  learning_rate: 1e-5
callbacks:
  conflict:
    window: 7
"""


@pytest.fixture
def lines(capsys):
    """Run `m3dt config` and return what it prints."""

    def run(*words):
        assert main(["config", *words]) == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_each_key_names_its_source_and_meaning(lines, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    shown = lines("--conf", str(file), "stage1.max_steps=7", "size=large")
    rate = f"  learning_rate: 1.0e-05  # {file}: Learning rate of AdamW after the warm-up."
    stage1 = shown[shown.index(next(line for line in shown if line.startswith("stage1:"))) :]
    assert "  max_steps: 7  # command line: Number of optimiser steps." in stage1
    assert rate in stage1 and shown.count(rate) == 1
    assert "  weight_decay: 0.0001  # default: Weight decay of AdamW." in stage1  # no sibling's
    assert "seed: 0  # base: Seed of initial weights, batches, dropout and task groups." in shown
    assert f"suite: mt10  # {file}: Name of a list of tasks." in shown
    assert "run: runs/own-large  # derived: Folder of checkpoints, registry and logs." in shown
    assert "  n_embd: 256  # preset size=large: Width of the token embeddings." in shown
    assert f"    window: 7  # {file}" in shown and "    patience: 5  # base" in shown


@pytest.mark.parametrize("words", [["--conf", "quickstart"], ["--conf", "recipe-gpu", "seed=3"]])
def test_what_is_printed_is_the_same_configuration_as_a_file(lines, tmp_path, words):
    file = tmp_path / "again.yaml"
    file.write_text("\n".join(lines(*words)))
    expected = config_values(load_experiment(words[1], words[2:]))
    assert config_values(load_config(file)) == {**expected, "conf": "again"}


def test_keys_are_listed_with_default_type_and_meaning(lines):
    shown = lines("keys", "stage1", "seed")
    steps = shown.index("stage1.max_steps = 400000  (int; 1 or more)")
    assert shown[steps + 1] == "    Number of optimiser steps."
    assert "seed = 0  (int; 0 or more)" in shown and not any("stage2." in line for line in shown)
    heads = [line.partition(" = ")[0] for line in lines("keys") if not line.startswith(" ")]
    assert heads == [key.dotted for key in all_keys()]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["keys", "stag1"], "Did you mean 'stage1'?"),
        (["stage1"], "m3dt config keys stage1"),
        (["stage1.max_step=1"], "Did you mean 'stage1.max_steps'?"),
    ],
)
def test_mistakes_are_one_line(words, hint, capsys):
    assert main(["config", *words]) == 2
    message = capsys.readouterr().err
    assert hint in message and message.count("\n") == 1


@pytest.mark.parametrize("words", [["config", "keys"], ["config", "--conf", "mt160"]])
def test_it_loads_no_torch_and_takes_less_than_a_second(words):
    code = (
        f"import sys, time; from m3dt.cli import main; rc = main({words}); "
        "print('torch' in sys.modules, rc, time.process_time())"
    )
    times = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        *told, seconds = done.stdout.splitlines()[-1].split()
        assert told == ["False", "0"]
        times.append(float(seconds))
    assert min(times) < 1.0
