"""`m3dt bench --gpu`: run everything, print the tables, and say what failed."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from m3dt.bench.gpu.gpu_run import Budget, gpu_bench, nothing_measured
from m3dt.bench.gpu.gpu_table import markdown
from m3dt.bench.gpu.outcomes import NEEDS_GPU, not_passed
from m3dt.bench.gpu.site import Sizes
from m3dt.utils.counts import agreeing, counted
from m3dt.utils.errors import RunError, UserError
from m3dt.utils.output_files import check_output, output_json

RESULT = Path("results/gpu.json")


def bench_gpu(rows: Sequence[str], file: Path | None, seconds: float, console: Console) -> None:
    """Check and measure on a GPU.

    Args:
        rows: Names among `ROWS`.
        file: Where the result is written; by default `RESULT`, and nowhere without a GPU.
        seconds: What begins after them is not measured.
        console: Receives each outcome and the tables.

    Raises:
        UserError: There is no GPU.
        RunError: Something failed or differs. The result is written all the same.
    """
    if not torch.cuda.is_available():
        if file is not None:
            output_json(file, nothing_measured(Sizes(), NEEDS_GPU, rows))
        raise UserError(
            f"--gpu {NEEDS_GPU}, and torch {torch.__version__} finds none. Without --gpu, "
            "`m3dt bench` measures on the CPU."
        )
    file = file or RESULT
    check_output(file)
    result = gpu_bench("cuda", Sizes(), Budget(seconds), console, file, rows)
    console.print(markdown(result), markup=False)
    bad = not_passed(result["outcomes"])
    if bad:
        shown = "; ".join(bad[:5]) + (f"; and {len(bad) - 5} more" if bad[5:] else "")
        raise RunError(
            f"{counted(len(bad), 'check')} or {agreeing(len(bad), 'measurement', 'measurements')} "
            f"failed, see {file}: {shown}"
        )
