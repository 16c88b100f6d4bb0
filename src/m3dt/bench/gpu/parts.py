"""The list of what `m3dt bench --gpu` does, the most important first."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from m3dt.bench.gpu import equality, gpu_acting, gpu_measures, gpu_steps, two_devices
from m3dt.bench.gpu.outcomes import Outcome
from m3dt.bench.gpu.site import Sizes
from m3dt.bench.gpu.workloads import Workload

ROWS = (
    equality.PART,
    gpu_steps.PART,
    gpu_measures.PART,
    gpu_acting.PART,
    two_devices.PART,
)


@dataclass(frozen=True)
class Part:
    """Work for a process of its own.

    Attributes:
        name: Of the part; several processes may share it.
        names: Of its outcomes, in their order.
        function: Given a site and the arguments, yields the outcomes.
        arguments: Further arguments.
        limit: Seconds after which the process is killed.
        beside: Whether others of its kind may run at the same time: it measures no time.
    """

    name: str
    names: tuple[str, ...]
    function: Callable[..., Iterator[Outcome]]
    arguments: tuple[Any, ...] = ()
    limit: float = 90
    beside: bool = False


def workloads(sizes: Sizes) -> list[Workload]:
    """Return the steps that are timed."""
    stage3 = [Workload(3, experts, batch_size) for experts, batch_size in sizes.stage3]
    return [Workload(1), Workload(1, 0, 128), Workload(2, sizes.stage2), *stage3]


def all_parts(sizes: Sizes, rows: Sequence[str] = ROWS) -> list[Part]:
    """Return everything that belongs to some of `ROWS`, in the order in which it is done."""
    timed, evaluations = workloads(sizes), [_acting(*each) for each in sizes.evaluations]
    parts = [
        *_equality(),
        *(_steps(workload, "plain", "eager", "graph") for workload in timed),
        Part(
            gpu_measures.PART,
            (gpu_measures.GROUPING, gpu_measures.CONFLICT),
            gpu_measures.measure_measures,
        ),
        *(_steps(workload, "compiled") for workload in timed[:4]),
        *evaluations[:1],
        Part(two_devices.PART, (two_devices.NAME,), two_devices.check_two_devices),
        *(_steps(workload, "compiled") for workload in timed[4:]),
        *evaluations[1:],
    ]
    return [part for part in parts if part.name in rows]


def _equality() -> Iterator[Part]:
    def part(names: tuple[str, ...], function: Callable[..., Any], *arguments: Any) -> Part:
        return Part(equality.PART, names, function, arguments, 240, beside=True)

    yield part(equality.BATCHES, equality.check_batches)
    for precision in equality.PRECISIONS:
        for name in equality.CHECKED:
            names = equality.names_of_ways(name, precision)
            yield part(names, equality.check_ways, name, precision)
    yield part((equality.COMPANY,), equality.check_company)
    for name in ("stage 1", "stage 2", "stage 3"):
        yield part((equality.name_of_compiled(name),), equality.check_compiled, name)


def _steps(workload: Workload, *forms: str) -> Part:
    names = tuple(gpu_steps.name_of_step(workload, form) for form in forms)
    limit = 180 if "compiled" in forms else 90  # compilation alone may take a minute
    return Part(gpu_steps.PART, names, gpu_steps.measure_steps, (workload, forms), limit)


def _acting(num_tasks: int, episodes: int) -> Part:
    names = gpu_acting.names_of_acting(num_tasks, episodes)
    arguments = (num_tasks, episodes)
    return Part(gpu_acting.PART, names, gpu_acting.measure_acting, arguments, limit=120)
