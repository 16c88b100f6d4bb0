"""Everything that a study's results turn into: figures, tables, claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from m3dt.study.claims import SUBJECTS, claims, claims_table
from m3dt.study.estimates import Results
from m3dt.study.figures import ablations, comparison, conflicts, modules, paired, scaling
from m3dt.utils.files import atomic_path


@dataclass(frozen=True)
class Page:
    """A figure with what is to be said of it.

    Attributes:
        title: What it shows.
        of: Which figures of the paper it reproduces.
        draw: Draws it from results.
        claims: Names of the claims that it bears on.
    """

    title: str
    of: str
    draw: Callable[[Results], Figure]
    claims: tuple[str, ...] = ()

    def caption(self, results: Results) -> str:
        """Return a sentence for each claim and its verdict, as Markdown."""
        told = [c.sentence() for c in claims(results) if c.name in self.claims]
        return "\n".join(f"- {sentence}" for sentence in told)


PAGES = {
    "tasks": Page("More tasks", "figure 2", scaling.tasks_figure, ("tasks", "drop")),
    "similarity": Page(
        "Agreement of gradients",
        "figure 2",
        conflicts.similarity_figure,
        ("similarity", "similarity remains"),
    ),
    "parameters": Page(
        "Tasks and parameters", "figure 3", scaling.parameters_figure, ("width", "equal size")
    ),
    "conflict": Page(
        "Conflict over training",
        "figures 2 and 7",
        conflicts.conflict_figure,
        ("conflict", "levels", "artefact"),
    ),
    "expert_conflict": Page(
        "Conflict inside experts",
        "figure 5",
        conflicts.expert_conflict_figure,
        ("group conflict", "group agreement", "gradient agreement"),
    ),
    "experts": Page(
        "Number of experts",
        "figures 6 and 8",
        scaling.experts_figure,
        ("experts", "experts level", "oracle"),
    ),
    "stopping": Page(
        "When the backbone stops",
        "figure 7",
        ablations.stopping_figure,
        ("stopping", "stopping early", "backbone"),
    ),
    "width": Page(
        "Width and shape",
        "figures 8 and 10",
        scaling.width_figure,
        ("width gain", "router gap", "shape"),
    ),
    "top_k": Page("Top-k routing", "figure 9", ablations.top_k_figure, ("top-k",)),
    "domains": Page("Domains", "figure 11", comparison.domains_figure, ("domains", "control")),
    "modules": Page(
        "Attention or MLP alone",
        "figure 12",
        modules.modules_figure,
        ("modules", "module conflict"),
    ),
    "residual": Page(
        "What experts are added to", "equations 3 and 4", ablations.residual_figure, ("residual",)
    ),
}
TABLES = {
    "Methods (table 1)": comparison.methods_table,
    "Gains (table 1)": comparison.gains_table,
    "Ablations (table 2)": ablations.ablations_table,
    "Domains (tables 6 and 7)": comparison.domains_table,
    "Residual (equations 3 and 4)": ablations.residual_table,
    "Timestep tables": ablations.timestep_table,
    "Task by task": paired.paired_table,
}


def write_pages(file: Path, folder: Path) -> list[Path]:
    """Write every figure as PNG into `figures/`; captions, tables and claims as Markdown beside it.

    Args:
        file: CSV of a study's results.
        folder: Where they go.

    Returns:
        What was written.

    Raises:
        UserError: There are no such results.
    """
    results = Results.read(file)
    written = []
    for name, page in PAGES.items():
        written.append(folder / "figures" / f"{name}.png")
        with atomic_path(written[-1]) as temporary:
            page.draw(results).savefig(temporary, format="png", dpi=120)
    for name, text in (
        ("figures", _captions(results)),
        ("tables", _sections({title: table(results) for title, table in TABLES.items()})),
        ("claims", _sections({f"Claims: {s}": claims_table(results, s) for s in SUBJECTS})),
    ):
        written.append(folder / f"{name}.md")
        with atomic_path(written[-1]) as temporary:
            temporary.write_text(text)
    return written


def _captions(results: Results) -> str:
    shown = {
        f"{page.title} ({page.of})": f"![](figures/{name}.png)\n\n{page.caption(results)}\n"
        for name, page in PAGES.items()
    }
    return f"{results.summary()}\n\n{_sections(shown)}"


def _sections(texts: Mapping[str, str]) -> str:
    return "\n".join(f"# {title}\n\n{text}" for title, text in texts.items())
