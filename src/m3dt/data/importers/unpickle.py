"""Read pickles of unknown origin without running their code.

A pickle can call any function by name. These readers allow only the few that arrays and tensors
need.
"""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import torch

from m3dt.data.importers.archives import check_sizes
from m3dt.utils.errors import UserError
from m3dt.utils.regular_files import regular_file

_BUILTINS = {("_codecs", "encode"), ("collections", "OrderedDict"), ("numpy", "dtype")}
_CORES = ("numpy.core", "numpy._core")
_TORCH = {
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.storage", "UntypedStorage"),
    *(("torch", f"{kind}Storage") for kind in
      ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")),
}  # fmt: skip


def _require_numbers(dtype: Any) -> None:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.names is not None:
        raise pickle.UnpicklingError(f"it contains an array of {dtype}, not of numbers")


class _ArrayType:
    """Replaces `numpy.ndarray`, whose constructor would read any memory as objects."""


def _new_array(kind: Any, shape: Any, dtype: Any) -> np.ndarray:
    """Return the empty array that the pickle fills afterwards."""
    if kind is not _ArrayType:
        raise pickle.UnpicklingError("it asks for a class of array that no data file needs")
    return _Array((0,), np.uint8)


class _Array(np.ndarray):
    """An array whose pickled state may contain only numbers."""

    def __setstate__(self, state: Any) -> None:
        _require_numbers(state[2])
        super().__setstate__(state)


def _from_buffer(buffer: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """Rebuild an array pickled with protocol 5."""
    _require_numbers(dtype)
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, data: bytes) -> Any:
    _require_numbers(dtype)
    return np.frombuffer(data, dtype)[0]


_REPLACED = {
    ("numpy", "ndarray"): _ArrayType,
    **{(f"{core}.multiarray", "_reconstruct"): _new_array for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _from_buffer for core in _CORES},
}


class _Mapping(dict):
    """Replaces a TensorDict: a mapping of names to tensors."""


def _make_mapping(cls: type, state: Any) -> _Mapping:
    """Return the tensors in a TensorDict's pickled state."""
    state = state if isinstance(state, dict) else {}
    return _Mapping(state.get("_tensordict", state))


class _Unpickler(pickle.Unpickler):
    """An unpickler that refuses all names but the allowed functions and classes."""

    allowed: frozenset[tuple[str, str]] = frozenset(_BUILTINS)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("tensordict._reductions", "_make_td"):
            return _make_mapping
        if module.split(".")[0] == "tensordict" and name == "TensorDict":
            return _Mapping
        if (module, name) in _REPLACED:
            return _REPLACED[module, name]
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data file needs")
        return super().find_class(module, name)


class _TorchUnpickler(_Unpickler):
    allowed = frozenset(_BUILTINS | _TORCH)


def load_pickle(path: Path) -> Any:
    """Read a pickle of NumPy arrays in lists and dictionaries.

    Raises:
        UserError: It is damaged, or names anything but arrays.
    """
    return _guarded(path, lambda: _load_file(path))


def _load_file(path: Path) -> Any:
    with regular_file(path).open("rb") as file:
        return _Unpickler(file).load()


def load_torch(path: Path) -> Any:
    """Read a torch file of tensors in lists, dictionaries and TensorDicts.

    Raises:
        UserError: It is damaged, or names anything but tensors.
    """
    module: Any = SimpleNamespace(
        Unpickler=_TorchUnpickler, load=_torch_load, __name__="m3dt.data.importers.unpickle"
    )
    return _guarded(path, lambda: _load_archive(path, module))


def _load_archive(path: Path, module: Any) -> Any:
    names = check_sizes(path, path.stat().st_size)  # torch compresses nothing
    if any(name.endswith("constants.pkl") for name in names):
        raise pickle.UnpicklingError("it is a TorchScript program, not data")
    return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False, mmap=True)


def _torch_load(file: BinaryIO, **options: Any) -> Any:
    return _TorchUnpickler(file, **options).load()


def _guarded(path: Path, read: Any) -> Any:
    try:
        return read()
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # damaged bytes can raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a data file that can be trusted and read ({first})") from None
