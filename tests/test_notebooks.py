"""Every notebook runs on the results in the repository and was saved with its outputs."""

import ast
import json
import sys
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


class Markdown:
    """Replaces the class of IPython, which only the extra `notebooks` installs."""

    def __init__(self, text):
        self.text = text

    def _repr_markdown_(self):
        return self.text


@pytest.fixture
def ipython(monkeypatch):
    package, display = ModuleType("IPython"), ModuleType("IPython.display")
    package.get_ipython, package.version_info = (lambda: None), (9, 0)  # matplotlib asks for these
    display.Markdown = Markdown
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)


def code_of(path):
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run_from_top_to_bottom(path, ipython, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(FOLDER)
    monkeypatch.setenv("MUJOCO_GL", "disable")  # frames of environments need a driver
    names = {}
    for cell in code_of(path):
        tree = ast.parse("".join(cell["source"]))
        shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(path), "exec"), names)
        if shown is None:
            continue
        shown = eval(compile(ast.Expression(shown.value), str(path), "eval"), names)
        for form in ("_repr_png_", "_repr_markdown_"):
            if hasattr(shown, form):
                assert getattr(shown, form)()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_define_nothing(path):
    """Functions belong into the package, where they are tested."""
    defining = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While)
    for cell in code_of(path):
        assert not [
            n for n in ast.walk(ast.parse("".join(cell["source"]))) if isinstance(n, defining)
        ]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_were_saved_with_their_outputs(path):
    for cell in code_of(path):
        kinds = {output["output_type"] for output in cell["outputs"]}
        assert kinds and "error" not in kinds
