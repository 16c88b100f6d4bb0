"""CUDA graphs: record a function's kernels once, then launch all of them at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_WARM_UPS = 3  # runs before the recording, which create what later ones find


def graphed(
    function: Callable[Arguments, Result], enabled: bool
) -> Callable[Arguments, Result] | Graphed[Arguments, Result]:
    """Return the function as a CUDA graph if enabled, else as it is."""
    return Graphed(function) if enabled else function


class Graphed(Generic[Arguments, Result]):
    """A function that the first call records as a CUDA graph and that later calls replay.

    Arguments are tensors, or tuples, lists and named tuples of them, with the same shapes in every
    call. A call copies them to where the graph reads them. The next call overwrites the result:
    copy what is to be kept.

    The function must not read a value back from the device, create a tensor on the CPU, or let
    shapes depend on values. Random numbers come from the device's default generator: seed it before
    each call.
    """

    def __init__(self, function: Callable[Arguments, Result]) -> None:
        self.function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Any] = []
        self._result: Any = None

    @property
    def recorded(self) -> bool:
        """Whether the function is recorded."""
        return self._graph is not None

    def record(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        """Run the function a few times and record it."""
        given, form = tree_flatten((args, kwargs))
        self._inputs = [x.clone() if isinstance(x, Tensor) else x for x in given]
        own_args, own_kwargs = tree_unflatten(self._inputs, form)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self.function(*own_args, **own_kwargs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Threads that load data may use the device during the recording.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._result = self.function(*own_args, **own_kwargs)
        self._graph = graph

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if not self.recorded:
            self.record(*args, **kwargs)
        assert self._graph is not None
        given, _ = tree_flatten((args, kwargs))
        for own, new in zip(self._inputs, given, strict=True):
            if isinstance(own, Tensor):
                own.copy_(new, non_blocking=True)
        self._graph.replay()
        return self._result
