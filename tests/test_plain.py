"""The plain model is the method, no illustration: without the shortcuts everything still trains."""

import json
import subprocess
import sys
from pathlib import Path

from quick_run import QUICK

TESTS = Path(__file__).parent
GOLDENS = ("test_golden_models.py", "test_golden_training.py")

# Runs what it is given with the room of the shortcuts unimportable.
SCRIPT = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("m3dt.models.fast"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
stages, goldens = json.loads(sys.argv[1])
from m3dt.cli import main
for command in ("stage1", "stage2", "stage3"):
    assert main([command, *stages]) == 0
import pytest
assert pytest.main(["-q", "-k", "not shortcuts and not encoded", *goldens]) == 0
assert "m3dt.models.fast" not in sys.modules
"""


def test_stages_train_and_goldens_hold_without_the_shortcuts(data, tmp_path):
    steps = [f"stage{i}.max_steps=4" for i in (1, 2, 3)]
    stages = [*QUICK, *steps, f"data={data}", f"run={tmp_path / 'run'}", "compute.shortcuts=off"]
    goldens = [str(TESTS / name) for name in GOLDENS]
    command = [sys.executable, "-c", SCRIPT, json.dumps([stages, goldens])]
    result = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    passed = int(result.stdout.rpartition(" passed")[0].split()[-1])
    assert passed >= 20, result.stdout
    models = tmp_path / "run" / "registry"
    assert (models / "router" / "main" / "weights.safetensors").is_file()
