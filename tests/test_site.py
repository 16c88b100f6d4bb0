"""The documentation site is built without a warning; it has every public name and every key."""

import importlib
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from m3dt.config.keys import all_keys

ROOT = Path(__file__).resolve().parents[1]
IMPORT = r"^ *from m3dt[\w.]* import (.+)$"
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package, reason="the site needs it: pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    options = ["-q", "-W", "--keep-going", "-d", str(out / "doctrees"), "-b", "html"]
    command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(out / "html")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    return out / "html"


def test_the_site_has_every_public_name(site):
    page = (site / "api.html").read_text()
    for module in ("m3dt", "m3dt.envs", "m3dt.callbacks"):
        for name in importlib.import_module(module).__all__:
            assert re.search(rf'id="m3dt\.[\w.]*\b{name}"', page), f"{module}.{name}"


def test_the_site_has_what_pages_import(site):
    page, pages = (site / "api.html").read_text(), [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    lines = [line for path in pages for line in re.findall(IMPORT, path.read_text(), re.M)]
    named = {name.strip() for line in lines for name in line.split(",")}
    assert {"make_env", "compact_copy"} <= named
    for name in named:
        assert re.search(rf'id="m3dt\.[\w.]*\b{name}"', page), name


def test_the_site_has_every_key_with_its_default_and_meaning(site):
    page = (site / "keys.html").read_text()
    text = unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page)))
    plain = re.sub(r"[\W_]+", "", text)
    for key in all_keys():
        assert f'id="{re.sub(r"[._]", "-", key.dotted)}"' in page, key.dotted
        assert re.sub(r"[\W_]+", "", key.meaning) in plain, key.dotted
        assert re.sub(r"[\W_]+", "", str(key.default)) in plain, key.dotted


def test_internal_links_of_the_site_lead_somewhere(site):
    """Files and places in them."""
    pages = {path: path.read_text() for path in site.rglob("*.html")}
    ids = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    for path, text in pages.items():
        for link in re.findall(r'<a [^>]*href="([^"]*)"', text):
            if re.match(r"\w+:", link):
                continue
            file, _, place = unescape(link).partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), f"{path.name}: {link}"
            assert not place or target not in ids or place in ids[target], f"{path.name}: {link}"
