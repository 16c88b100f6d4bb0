"""Checks of named tensors: their names, shapes and types, and that their numbers are finite."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from m3dt.utils.counts import agreeing, counted
from m3dt.utils.errors import UserError


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Return which of some tensors holds numbers that are not finite, or an empty string."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = tensor.numel() - int(tensor.isfinite().sum())
            all_numbers = counted(tensor.numel(), "number")
            return f"{count} of {all_numbers} of {name} {agreeing(count, 'is', 'are')} not finite"
    return ""


def check_tensors(path: Path, found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Check tensors against those that a model has, which need no values.

    Numbers may have another precision than expected.

    Raises:
        UserError: Names, shapes or types differ, or a number is not finite.
    """
    for name in (*expected, *found):
        if name not in found:
            raise UserError(f"{path}: lacks {name}")
        tensor = found[name]
        if name not in expected or not isinstance(tensor, Tensor):
            raise UserError(f"{path}: {name} has no place in this model")
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(wanted.shape)}"
            raise UserError(f"{path}: {name} has shape {shapes}")
        numbers = wanted.is_floating_point()
        if not (tensor.is_floating_point() if numbers else tensor.dtype == wanted.dtype):
            kind = "floating-point numbers" if numbers else str(wanted.dtype)
            raise UserError(f"{path}: {name} holds {tensor.dtype}, not {kind}")
    if problem := not_finite(found):
        raise UserError(f"{path}: {problem}")
