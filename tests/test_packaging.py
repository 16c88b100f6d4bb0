"""What a wheel contains: an editable install would hide what is missing. Versions."""

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from m3dt import __version__

ROOT = Path(__file__).resolve().parents[1]


def test_wheel_holds_code_callbacks_and_configurations(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("src", "callbacks", "conf"):
        ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored, symlinks=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    result = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {
        "m3dt/" + str(p.relative_to(ROOT / "src" / "m3dt"))
        for p in (ROOT / "src" / "m3dt").rglob("*")
        if p.suffix in (".py", ".json", ".csv", ".npz", ".safetensors")
    }
    weights = ROOT / "src" / "m3dt" / "weights"
    expected |= {f"m3dt/weights/{p.relative_to(weights)}" for p in weights.rglob("*.*")}
    expected |= {f"m3dt/callbacks/{p.name}" for p in (ROOT / "callbacks").glob("*.py")}
    expected |= {f"m3dt/{p.relative_to(ROOT)}" for p in (ROOT / "conf").rglob("*.yaml")}
    assert expected <= names


def test_citation_has_the_packages_version():
    (version,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert version == __version__


def _name(requirement):
    return re.split(r"[^\w-]", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0"])
def test_constraints_can_be_installed_by_each_python(python):
    """pip would try other versions of everything for many minutes, and then fail."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    held = {_name(line): line.partition("==")[2].split()[0] for line in lines if "==" in line}
    installed = {_name(found.name): found for found in distributions()}
    checked = {name for name in held.keys() & installed.keys()
               if installed[name].version.partition("+")[0] == held[name]}  # fmt: skip
    assert len(checked) > 50
    asked = {name: installed[name].metadata["Requires-Python"] or "" for name in checked}
    refused = {name: asked[name] for name in checked if python not in SpecifierSet(asked[name])}
    assert not refused


def test_constraints_hold_every_requirement_and_say_why():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    written = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    required = {_name(line) for text in written for line in text.split("\n") if line} - {"m3dt"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert required <= {_name(line) for line in lines if "==" in line and line[0] != "#"}
    reasons = [i for i, line in enumerate(lines) if re.match(r"# \w+: ", line)]
    assert len(reasons) > 4
    for i in reasons:  # each stands above the version it is about
        assert lines[i + 1].startswith(f"{lines[i][2:].partition(':')[0]}==")
