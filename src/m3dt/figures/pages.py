"""Everything that a study's results turn into: figures, tables, claims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from m3dt.figures import methods, scaling, training
from m3dt.figures.claims import claims, claims_table
from m3dt.figures.results import Results
from m3dt.files import atomic_path


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
        """Return a sentence for each claim, as Markdown."""
        told = [c.sentence() for c in claims(results) if c.name in self.claims]
        return "\n".join(f"- {sentence}" for sentence in told)


PAGES = {
    "tasks": Page("More tasks", "figure 2", scaling.tasks_figure, ("tasks", "drop")),
    "parameters": Page(
        "Tasks and parameters", "figure 3", scaling.parameters_figure, ("width", "equal size")
    ),
    "conflict": Page(
        "Conflict over training",
        "figures 2 and 7",
        training.conflict_figure,
        ("conflict", "levels", "artefact"),
    ),
    "expert_conflict": Page(
        "Conflict inside experts",
        "figure 5",
        training.expert_conflict_figure,
        ("group conflict", "grouping"),
    ),
    "experts": Page(
        "Number of experts",
        "figures 6 and 8",
        scaling.experts_figure,
        ("experts", "experts level", "oracle"),
    ),
    "stopping": Page(
        "When the backbone stops", "figure 7", training.stopping_figure, ("stopping", "backbone")
    ),
    "width": Page("Width and shape", "figures 8 and 10", scaling.width_figure),
    "top_k": Page("Top-k routing", "figure 9", scaling.top_k_figure, ("top-k",)),
    "domains": Page("Domains", "figure 11", methods.domains_figure),
    "modules": Page("Attention or MLP alone", "figure 12", training.modules_figure),
}
TABLES = {
    "Methods (table 1)": methods.methods_table,
    "Ablations (table 2)": methods.ablations_table,
    "Domains (tables 6 and 7)": methods.domains_table,
}


def write_pages(file: Path, folder: Path) -> list[Path]:
    """Write every figure as PNG into `figures/`, and tables and claims as Markdown beside it.

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
    for path, text in (
        (folder / "tables.md", _tables(results)),
        (folder / "claims.md", f"# Claims\n\n{claims_table(results)}"),
    ):
        written.append(path)
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    return written


def _tables(results: Results) -> str:
    return "\n".join(f"# {title}\n\n{table(results)}" for title, table in TABLES.items())
