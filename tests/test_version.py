"""Versions of packages, as results and registries record them."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import m3dt
from m3dt.version import __version__, version_of

SOURCE = Path(m3dt.__file__).parents[1]


def test_versions_of_others_are_those_installed():
    assert version_of("torch") == metadata.version("torch")


def test_own_version_needs_no_installation(tmp_path):
    """A source tree on the path has no package metadata."""
    (tmp_path / "m3dt").symlink_to(SOURCE / "m3dt")
    code = "import sys; sys.path[:] = [sys.argv[1], *(p for p in sys.path if 'site-' not in p)]; "
    code += "from m3dt.version import version_of; print(version_of('m3dt'))"
    command = [sys.executable, "-I", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __version__
