"""The result of `m3dt bench --gpu` as Markdown."""

from collections.abc import Callable, Iterator

from m3dt.bench.gpu.equality import PART as EQUALITY
from m3dt.bench.gpu.gpu_run import GpuResult
from m3dt.bench.gpu.gpu_steps import FORMS
from m3dt.bench.gpu.gpu_steps import PART as STEPS
from m3dt.bench.gpu.outcomes import DIFFERS, NOT_MEASURED, OK, Outcome

_Measured = dict[str, float]
_UNITS: dict[str, Callable[[_Measured], str]] = {
    "seconds": lambda m: f"{m['seconds']:.2f} s",
    "env_steps_per_second": lambda m: f"{m['env_steps_per_second']:,.0f} steps/s",
    "relative": lambda m: f"ok, {m['relative']:.1%} apart",
}


def markdown(result: GpuResult) -> str:
    """Return tables of the steps' times, of the checks, and of the other measurements."""
    outcomes = result["outcomes"]
    lines = [_title(result), ""]
    lines += _steps([o for o in outcomes if o["part"] == STEPS])
    lines += ["", "| trainings | same |", "|---|---|"]
    lines += _checks([o for o in outcomes if o["part"] == EQUALITY and ": " in o["name"]])
    lines += ["", "| | result |", "|---|---|"]
    others = [o for o in outcomes if o["part"] != STEPS]
    others = [o for o in others if o["part"] != EQUALITY or ": " not in o["name"]]
    lines += [f"| {o['name']} | {_result(o)} |" for o in others]
    return "\n".join(lines)


def _title(result: GpuResult) -> str:
    machine = result["machine"]
    if machine is None:
        return "No machine was measured."
    peaks = ", ".join(f"{g / 1e3:,.0f} in {p}" for p, g in machine["gemm_gflops"].items())
    return (
        f"{machine['device']}, {machine['memory_bytes'] / 2**30:.0f} GiB, torch "
        f"{machine['torch']}, CUDA {machine['cuda']}: matrix products at {peaks} TFLOP/s. "
        f"{result['seconds']:.0f} s in all."
    )


def _steps(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield a table with a row per workload, and a column of times per form."""
    shown = " | ".join(f"{form}, ms" for form in FORMS)
    yield f"| step, bf16-mixed | {shown} | segments/s | memory, GiB | utilization | set-up, s |"
    yield "|" + "---|" * (len(FORMS) + 5)
    workloads: dict[str, dict[str, Outcome]] = {}
    for each in outcomes:
        name, _, form = each["name"].rpartition(", ")
        if form in FORMS:
            workloads.setdefault(name, {})[form] = each
    for name, forms in workloads.items():
        cells = [_milliseconds(forms[form]) if form in forms else "" for form in FORMS]
        good = [o["measured"] for o in forms.values() if o["status"] == OK]
        details = _details(min(good, key=lambda m: m["seconds_per_step"])) if good else [""] * 4
        yield f"| {' | '.join([name, *cells, *details])} |"


def _milliseconds(each: Outcome) -> str:
    if each["status"] == OK:
        return f"{1e3 * each['measured']['seconds_per_step']:.2f}"
    return each["status"]


def _details(measured: _Measured) -> list[str]:
    """Return what is shown of the fastest form."""
    share = measured["utilization"]
    return [
        f"{measured['segments_per_second']:,.0f}",
        f"{measured['peak_bytes'] / 2**30:.1f}",
        "" if share is None else f"{share:.0%}",
        f"{measured['setup_seconds']:.1f}",
    ]


def _checks(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield a row per kind of check, with the trainings that did not pass."""
    kinds: dict[str, list[Outcome]] = {}
    for each in outcomes:
        kinds.setdefault(each["name"].partition(": ")[2], []).append(each)
    for kind, found in kinds.items():
        bad = [o for o in found if o["status"] != OK]
        if all(o["status"] == NOT_MEASURED for o in found):
            yield f"| {kind} | {NOT_MEASURED} |"
            continue
        listed = "; ".join(f"{o['name'].partition(': ')[0]}: {_result(o)}" for o in bad)
        yield f"| {kind} | {len(found) - len(bad)} of {len(found)}{'; ' + listed if bad else ''} |"


def _result(each: Outcome) -> str:
    if each["status"] == OK:
        found = (show for key, show in _UNITS.items() if key in each["measured"])
        return next(found, lambda m: OK)(each["measured"])
    if each["status"] == NOT_MEASURED:
        return NOT_MEASURED
    problem = each["problem"].splitlines()[0][:100].replace("|", "/")
    return f"{DIFFERS if each['status'] == DIFFERS else 'failed'}: {problem}"
