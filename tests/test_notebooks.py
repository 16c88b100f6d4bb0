"""Every notebook runs from the results that lie beside it, and was saved with what it shows."""

import ast
import json
from pathlib import Path

import matplotlib
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def code_of(path):
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run_from_top_to_bottom(path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(FOLDER)
    monkeypatch.setenv("MUJOCO_GL", "disable")  # pictures of environments need a driver
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
    """What has a name of its own belongs into figures, where it is tested."""
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
