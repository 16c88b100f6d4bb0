"""What an action costs: floating-point operations, counted, and milliseconds, measured."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


class Stopwatch:
    """Adds up the time that actions take, over threads."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.actions = 0
        self._lock = threading.Lock()

    @contextmanager
    def timing(self, actions: int) -> Iterator[None]:
        """Time the choice of some actions."""
        started = time.perf_counter()
        yield
        with self._lock:
            self.seconds += time.perf_counter() - started
            self.actions += actions

    @property
    def milliseconds(self) -> float:
        """Time per action; 0 where none was timed."""
        return 1000 * self.seconds / self.actions if self.actions else 0.0


def count_flops(run: Callable[[], Any]) -> int:
    """Return the floating-point operations of a call: two per multiplication and addition."""
    # The kernel of attention on a CPU is missing in torch's table.
    cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={cpu_attention: _attention_flops})
    with counter:
        run()
    return int(counter.get_total_flops())


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, **kwargs: Any
) -> int:
    return int(sdpa_flop_count(query, key, value))
