"""Reading pickles of others without running what they say.

A pickle may name any function to call. These readers know the few that arrays and tensors need and
refuse every other.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch

from m3dt.errors import UserError

_NUMPY = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in
      ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}  # fmt: skip
_BUILTINS = {("_codecs", "encode"), ("collections", "OrderedDict")}
_TORCH = {
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.storage", "UntypedStorage"),
    *(("torch", f"{kind}Storage") for kind in
      ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")),
}  # fmt: skip


class _Mapping(dict):
    """Stands for a TensorDict: a mapping of names to tensors."""


def _make_mapping(cls: type, state: Any) -> _Mapping:
    """Take the tensors out of a TensorDict's pickled state."""
    state = state if isinstance(state, dict) else {}
    return _Mapping(state.get("_tensordict", state))


class _Unpickler(pickle.Unpickler):
    """An unpickler that finds nothing but the named functions and classes."""

    allowed: frozenset[tuple[str, str]] = frozenset(_NUMPY | _BUILTINS)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("tensordict._reductions", "_make_td"):
            return _make_mapping
        if module.split(".")[0] == "tensordict" and name == "TensorDict":
            return _Mapping
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data file needs")
        return super().find_class(module, name)


class _TorchUnpickler(_Unpickler):
    allowed = frozenset(_NUMPY | _BUILTINS | _TORCH)


def load_pickle(path: Path) -> Any:
    """Read a pickle of NumPy arrays in lists and dictionaries.

    Raises:
        UserError: It is damaged, or asks for anything but arrays.
    """
    with path.open("rb") as file:
        return _guarded(path, lambda: _Unpickler(file).load())


def load_torch(path: Path) -> Any:
    """Read a torch file of tensors in lists, dictionaries and TensorDicts.

    Raises:
        UserError: It is damaged, or asks for anything but tensors.
    """
    module: Any = SimpleNamespace(
        Unpickler=_TorchUnpickler, load=_torch_load, __name__="m3dt.data.importers.unpickle"
    )
    return _guarded(
        path,
        lambda: torch.load(path, map_location="cpu", pickle_module=module, weights_only=False),
    )


def _torch_load(file: BinaryIO, **options: Any) -> Any:
    return _TorchUnpickler(file, **options).load()


def _guarded(path: Path, read: Any) -> Any:
    try:
        return read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (
        pickle.UnpicklingError, EOFError, RuntimeError, ValueError, TypeError, KeyError,
        AttributeError, IndexError, ImportError, MemoryError, UnicodeDecodeError,
    ) as error:  # fmt: skip
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a data file that can be trusted and read ({first})") from None
