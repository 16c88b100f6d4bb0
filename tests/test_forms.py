"""Mistyped command lines are answered with the right form in one line."""

import subprocess
import sys

import pytest

from m3dt.cli import main


@pytest.mark.parametrize(
    ("line", "form"),
    [
        ("evalute", "'evaluate'"),
        ("train --config mt10", "--conf mt10"),
        ("train --tasks reach-v2", "tasks=[reach-v2]"),
        ("train --stage1.max_steps 10", "stage1.max_steps=10"),
        ("train --lr=1e-3", "stage1.learning_rate=1e-3"),
        ("train --batch-size 8", "Write loader.batch_size=8."),
        ("stage2 --batch-size 8", "Write stage2.batch_size=8."),
        ("stage3 --lr 1e-3", "Write stage3.learning_rate=1e-3."),
        ("evaluate --seed 1", "Write evaluation.seed=1."),
        ("train lr=1e-3", "stage1.learning_rate"),
        ("evaluate runs/x", "--run runs/x"),
        ("train mt10", "write m3dt train --conf mt10"),
        ("config mt10", "write m3dt config --conf mt10"),
        ("train harmodt", "write m3dt train method=harmodt"),
        ("collect walker-walk", "write m3dt collect tasks=[walker-walk]"),
        ("train x.yaml", "--conf x.yaml"),
    ],
)
def test_mistakes_get_the_right_form(line, form, capsys):
    assert main(line.split()) == 2
    message = capsys.readouterr().err
    assert form in message
    assert message.count("\n") == 1


def test_the_folder_of_a_run_gets_the_right_form(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine/registry").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for command, form in (("evaluate", "--run mine"), ("stage2", "run=mine")):
        assert main([command, "mine"]) == 2
        assert f"write m3dt {command} {form}\n" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["", "--help", "train --help"])
def test_helps_list_what_overrides_take(line, capsys):
    assert main(line.split()) == 0
    shown = capsys.readouterr().out
    for text in ("mt160", "mid", "harmodt", "stage1.max_steps      Number of optimiser steps."):
        assert text in shown


def test_a_help_without_overrides_lists_no_keys(capsys):
    assert main(["tasks", "--help"]) == 0
    assert "stage1.max_steps" not in capsys.readouterr().out


@pytest.mark.parametrize("line", ["", "--help", "tasks quickstart"])
def test_commands_without_models_load_no_torch(line):
    code = (
        f"import sys; from m3dt.cli import main; rc = main({line.split()}); "
        "print('torch' in sys.modules, rc)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False 0"
