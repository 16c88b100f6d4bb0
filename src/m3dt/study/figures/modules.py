"""Figure 12: the modules of Prompt-DT, each widened alone, and the conflict in each."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure

from m3dt.study.estimates import Results, Scores
from m3dt.study.figures.panels import BLUE, GREEN, PINK, SCORE, finish, name_points, panels
from m3dt.study.lookup import MAIN, SUITES, base, prompt_dt

MODULES = {"attention": GREEN, "mlp": PINK}


@dataclass(frozen=True)
class Variant:
    """Prompt-DT with one module widened, or none.

    Attributes:
        title: How wide it is.
        scores: On `MAIN` tasks.
        cell: Name of its cells, without the seed.
    """

    title: str
    scores: Scores
    cell: str


def variants(results: Results) -> dict[str, Variant]:
    """Return Prompt-DT as it is and with either module widened, as far as there are results."""
    found = {"none": Variant("as it is", prompt_dt(results, MAIN), f"{SUITES[MAIN]}_promptdt")}
    own = {"attention": base().model.n_embd, "mlp": 4 * base().model.n_embd}
    for module, width in own.items():
        name = "attention" if module == "attention" else "MLP"
        wide = results.values(module, f"{module}_width")
        times = f" x {wide[0] / width:g}" if wide else " wider"
        cell = f"{SUITES[MAIN]}_promptdt_{module}_width{wide[0]}" if wide else ""
        found[module] = Variant(name + times, results.scores(module), cell)
    return found


def module_conflict(results: Results, cell: str, module: str) -> Scores:
    """Return the conflict in a module's parameters at the end of training, by seed."""
    ends = results.histories(cell, "baseline/conflict")
    return {s: r[-1]["parts"][module] for s, r in ends.items() if module in r[-1]["parts"]}


def modules_figure(results: Results) -> Figure:
    """Draw score and conflict with attention or MLP widened alone (figure 12)."""
    figure, (left, middle, right) = panels(3, 4.2)
    found = variants(results).values()
    titles = [variant.title for variant in found]
    scores = [variant.scores for variant in found]
    name_points(left, titles, [("", BLUE, scores)])
    finish(left, f"One module widened, {MAIN} tasks", "", SCORE)
    ends = [
        (
            "MLP" if module == "mlp" else module,
            color,
            [module_conflict(results, v.cell, module) for v in found],
        )
        for module, color in MODULES.items()
    ]
    name_points(middle, titles, ends)
    finish(middle, "Conflict at the end, by module", "", "1 - cos(g_i, G)")
    blocks = [f"block{i}" for i in range(base().model.n_layer)]
    by_block = [module_conflict(results, f"{SUITES[MAIN]}_promptdt", block) for block in blocks]
    name_points(right, [str(i + 1) for i in range(len(blocks))], [("", BLUE, by_block)])
    finish(right, "and by block, as it is", "block", "1 - cos(g_i, G)")
    return figure
