"""What a device is called, how fast it multiplies, and how time and memory are read on it."""

import platform
import resource
import time
from pathlib import Path
from statistics import median
from typing import TypedDict

import torch

from m3dt.utils.errors import UserError

PRECISIONS = {"float32": torch.float32, "bf16-mixed": torch.bfloat16}


class Machine(TypedDict):
    """A machine and one of its devices, with GFLOP/s of matrix products by precision."""

    cpu: str
    device: str  # the GPU's name, or the processor's
    memory_bytes: int  # of the GPU, or of the machine
    torch: str
    cuda: str | None  # the version that torch was built for
    threads: int  # of a torch operation on the CPU
    gemm_gflops: dict[str, float]


class Meter:
    """Reads time and memory of a device.

    On a CPU, time is the CPU seconds of this process, which other load on the machine changes
    little, and memory is resident memory. On a GPU, time is the wall clock after the device has
    finished, and memory is what torch has allocated.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.on_gpu = torch.device(device).type == "cuda"

    def now(self) -> float:
        """Return the time in seconds."""
        if self.on_gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def peak_bytes(self) -> int:
        """Return the peak memory of this process, on a GPU since the last reset."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def reset(self) -> None:
        """Return unused memory of a GPU, and begin a new peak."""
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        UserError: There is no CUDA device.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device {device}: torch {torch.__version__} finds no CUDA device. Use --device cpu."
        )


def describe_machine(device: str = "cpu", size: int = 0) -> Machine:
    """Name a device and measure its matrix products.

    Args:
        device: `cpu`, or a CUDA device.
        size: Of the square matrices. 0 means 2048 on a CPU and 8192 on a GPU.
    """
    on_gpu = torch.device(device).type == "cuda"
    size = size or (8192 if on_gpu else 2048)
    if on_gpu:
        properties = torch.cuda.get_device_properties(device)
        name, memory = properties.name, properties.total_memory
    else:
        name, memory = cpu_name(), _memory_bytes()
    return {
        "cpu": cpu_name(),
        "device": name,
        "memory_bytes": memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "gemm_gflops": {_name(dtype): gemm(dtype, device, size) for dtype in PRECISIONS.values()},
    }


def peak_of(machine: Machine, dtype: torch.dtype) -> float:
    """Return the GFLOP/s of a machine's matrix products in a precision."""
    return machine["gemm_gflops"][_name(dtype)]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def gemm(dtype: torch.dtype, device: str, size: int) -> float:
    """Return the GFLOP/s of products of square matrices, from the median of 7."""
    a, meter = torch.randn(size, size, dtype=dtype, device=device), Meter(device)
    seconds = []
    for _ in range(10):
        start = meter.now()
        a @ a
        seconds.append(meter.now() - start)
    return 2 * size**3 / median(seconds[3:]) / 1e9


def cpu_name() -> str:
    """Return the processor's name."""
    return _line_of("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _memory_bytes() -> int:
    found = _line_of("/proc/meminfo", "MemTotal")  # "32768 kB"
    return int(found.split()[0]) * 1024 if found else 0


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(_line_of("/proc/self/status", "VmRSS").split()[0]) * 1024


def _line_of(file: str, key: str) -> str:
    """Return the value of the first line `key: value` of a file, or an empty string."""
    if Path(file).exists():
        for line in Path(file).read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""
