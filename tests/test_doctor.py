"""The doctor: findings and remedies for what is in order, missing or broken."""

import io
import shlex
import shutil
from dataclasses import replace

import pytest
from conftest import write_dataset
from quick_run import QUICK
from rich.console import Console

from m3dt.cli import doctor as module
from m3dt.cli import main
from m3dt.cli.doctor import NOTE, OK, doctor
from m3dt.config import load_config
from m3dt.data.format import DatasetIndex
from m3dt.utils.errors import RunError


@pytest.fixture
def findings(monkeypatch):
    """Return a function that runs the doctor and gives its findings by name."""
    monkeypatch.setattr(module, "can_render", lambda backend: False)  # drivers differ

    def run(*overrides):
        console = Console(file=io.StringIO(), width=4000)
        try:
            found = doctor(load_config("quickstart", [*QUICK, *overrides]), console)
            return {finding.check: finding for finding in found}, ""
        except RunError as error:
            return console.file.getvalue(), str(error)

    return run


def test_all_is_well(findings, finished, data):
    found, error = findings(f"run={finished}", f"data={data}")
    assert error == ""
    assert {name: f.status for name, f in found.items()} == {
        "packages": OK, "processor": OK, "GPU": found["GPU"].status, "rendering": NOTE,
        "data": OK, "run": OK, "dataset": OK, "registry": OK,
    }  # fmt: skip
    assert "1 backbone, 1 grouping, 2 experts, 1 router, all verified" in found["registry"].found
    assert "libegl1" in found["rendering"].remedy


def test_missing_data_and_runs_name_their_command(findings, tmp_path):
    """With the overrides that doctor was given: others are of another run."""
    given = [f"run={tmp_path / 'the run'}", f"data={tmp_path / 'data'}"]
    found, error = findings(*given)
    assert error == ""
    assert found["dataset"].status == found["registry"].status == NOTE
    for check, command in (("dataset", "collect"), ("registry", "train")):
        words = shlex.split(found[check].remedy)
        assert words == ["m3dt", command, "--conf", "quickstart", *QUICK, *given]


def test_broken_parts_are_named(findings, finished, data, tmp_path, monkeypatch):
    broken = shutil.copytree(data, tmp_path / "data")
    path = broken / "reach-v2.hdf5"
    path.write_bytes(path.read_bytes()[:-100])
    shown, error = findings(f"run={finished}", f"data={broken}")
    assert "dataset" in error and "truncated" in shown and "m3dt verify" in shown
    run = shutil.copytree(finished, tmp_path / "run")
    weights = run / "registry" / "backbone" / "main" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    shown, error = findings(f"run={run}", f"data={data}")
    assert "registry" in error and "does not match its checksum" in shown
    shown, error = findings(f"run={finished}", f"data={data}", "tasks=[reach-v2,sweep-v2]")
    assert "dataset" in error and "lacks sweep-v2" in shown
    assert "m3dt collect" in shown and "collect.seed=0" in shown  # as the others were
    shown, error = findings(f"run={finished}", f"data={data}", "trainer.accelerator=gpu")
    assert "GPU" in error and "trainer.accelerator=auto" in shown
    monkeypatch.setattr(module, "_LOWEST_FREE", 2**80)
    shown, error = findings(f"run={finished}", f"data={data}")
    assert "data, run" in error and "free space" in shown


def test_the_remedy_for_missing_tasks_is_a_command_and_what_its_folder_holds(findings, tmp_path):
    """Backquotes in a name belong to it."""
    folder = write_dataset(tmp_path / "a `b`", ["reach-v2"])
    index = DatasetIndex.read(folder)
    made_by = {"seed": 3, "behaviour": "learned", "policies": "f" * 64}
    entries = {"reach-v2": replace(index.tasks["reach-v2"], made_by=made_by)}
    DatasetIndex(entries, {}).write(folder)
    shown, _ = findings(f"run={tmp_path}", f"data={folder}", "tasks=[reach-v2,sweep-v2]")
    assert f"'data={folder}'" in shown
    assert "collect.seed=3 collect.policies=FOLDER (FOLDER holds their policies)" in shown


def test_leftovers_and_interrupted_stages_are_mentioned(findings, finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "checkpoints" / "stage2").mkdir(parents=True)
    (run / "registry" / ".main.0.tmp").mkdir()
    found, error = findings(f"run={run}", f"data={data}")
    assert error == ""
    assert "stage2" in found["checkpoints"].found
    assert "1 file of killed processes" in found["leftovers"].found


def test_the_command_lists_failed_checks(finished, data, capsys):
    arguments = [*QUICK, f"run={finished}", f"data={data}"]
    assert main(["doctor", *arguments]) == 0
    assert "m3dt doctor --conf quickstart" in capsys.readouterr().out
    assert main(["doctor", *arguments, "trainer.accelerator=gpu"]) == 1
    assert "1 of " in capsys.readouterr().err
