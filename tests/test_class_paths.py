"""Classes and modules by dotted paths: where they are looked for, and what refuses them."""

import subprocess
import sys

import lightning.pytorch as pl
import pytest

from m3dt.utils.class_paths import import_class, import_named
from m3dt.utils.errors import UserError

CALLBACK = "import lightning.pytorch as pl\nimport later\n\nclass Mine(pl.Callback):\n    pass\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory that Python does not know yet; what it holds is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_module_of_the_working_directory_imports_its_neighbours(folder):
    (folder / "found_here.py").write_text(CALLBACK)
    (folder / "later.py").write_text("")
    kind = import_class("found_here.Mine", pl.Callback, "x", "a Lightning callback")
    assert issubclass(kind, pl.Callback) and kind.__module__ == "found_here"
    assert import_named("later", "x").__file__ == str(folder / "later.py")


def test_installed_module_precedes_a_file_of_its_name(folder):
    (folder / "json.py").write_text("raise RuntimeError")
    sys.modules.pop("json")
    assert import_named("json", "x").dumps([1]) == "[1]"


def test_folder_is_found_where_python_leaves_out_the_working_directory(tmp_path):
    """As in the installed command, whose first place is its own folder."""
    (tmp_path / "found_here.py").write_text("value = 7")
    code = "from m3dt.utils.class_paths import import_named as i; print(i('found_here', '').value)"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("7\n", "")


@pytest.mark.parametrize(
    ("source", "path", "message"),
    [
        ("", "absent.Mine", "no module 'absent' is installed or in the working directory"),
        ("", "bad.deeper.Mine", "no module 'bad.deeper' is installed or in the working directory"),
        (
            "import gone",
            "bad.Mine",
            "ModuleNotFoundError: No module named 'gone' (*bad.py, line 1)",
        ),
        ("\n1 / 0", "bad.Mine", "ZeroDivisionError: division by zero (*bad.py, line 2)"),
        ("class Mine", "bad.Mine", "SyntaxError: expected ':' (bad.py, line 1)"),
        ("", "Mine", "write module.Class, such as my_file.MyClass"),
        ("", ".bad.Mine", "write module.Class, such as my_file.MyClass"),
    ],
)
def test_what_cannot_be_imported(folder, source, path, message):
    (folder / "bad.py").write_text(source)
    with pytest.raises(UserError) as caught:
        import_class(path, pl.Callback, f"here: key={path}", "a Lightning callback")
    begin, _, end = message.partition("*")
    assert str(caught.value).startswith(f"here: key={path} cannot be imported: {begin}")
    assert str(caught.value).endswith(end)


def test_class_of_another_kind_is_refused_with_the_nearest(folder):
    (folder / "later.py").write_text("")
    (folder / "found_here.py").write_text(CALLBACK + "\nclass Other:\n    pass\n")
    for path in ("found_here.Other", "found_here.Mines", "found_here.pl"):
        with pytest.raises(UserError, match=r"^here is not a Lightning callback\."):
            import_class(path, pl.Callback, "here", "a Lightning callback")
    with pytest.raises(UserError, match="Did you mean 'found_here.Mine'"):
        import_class("found_here.Mines", pl.Callback, "here", "a Lightning callback")
