"""Import what a configuration names by a dotted path, also from the working directory."""

import importlib
import inspect
import os
import sys
import traceback
from types import ModuleType
from typing import TypeVar

from m3dt.utils.errors import UserError, nearest

T = TypeVar("T")


def import_named(name: str, where: str) -> ModuleType:
    """Import a module, of an installed package or else of the working directory.

    The working directory becomes the last place where Python looks for modules, so that what the
    module imports later is found as well.

    Args:
        name: Its dotted name.
        where: What names it and where, such as `conf/own.yaml: plugins=my_tasks`; begins the error.

    Raises:
        UserError: There is no such module, or its code fails.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()  # the file may be new
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the user's code may raise anything, and exit
        raise UserError(f"{where} cannot be imported: {_reason(name, error)}") from None


def _reason(name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
        return f"no module '{error.name}' is installed or in the working directory"
    message = " ".join(str(error).split())
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f" ({frame.filename}, line {frame.lineno})"
    return f"{type(error).__name__}: {message}{'' if isinstance(error, SyntaxError) else place}"


def import_class(path: str, base: type[T], where: str, what: str) -> type[T]:
    """Import a class by its dotted path; its module is found as by `import_named`.

    Args:
        path: Such as `my_package.MyModel`.
        base: What it must be, or be derived from.
        where: What names it and where; begins the error.
        what: What such a class is, such as `a Lightning callback`.

    Raises:
        UserError: There is no such class, or it is none of these.
    """
    module_name, _, class_name = path.rpartition(".")
    if not module_name or path.startswith("."):
        raise UserError(f"{where} cannot be imported: write module.Class, such as my_file.MyClass")
    module = import_named(module_name, where)

    def fits(value: object) -> bool:
        return inspect.isclass(value) and issubclass(value, base)

    kind = getattr(module, class_name, None)
    if not fits(kind):
        known = [f"{module_name}.{name}" for name, value in vars(module).items() if fits(value)]
        raise UserError(f"{where} is not {what}.{nearest(path, known)}")
    return kind  # type: ignore[return-value]  # `fits` has checked it
