"""Everything that is made of a study's results: figures, tables, claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from m3dt.study import tables
from m3dt.study.claims import SUBJECTS, claims, claims_table
from m3dt.study.figures import ablations, conflicts, domains, scaling
from m3dt.study.paired import paired_table
from m3dt.study.study_results import Results
from m3dt.utils.files import atomic_path


@dataclass(frozen=True)
class StudyFigure:
    """A figure and the claims that it shows.

    Attributes:
        title: Its title.
        source: The figures or equations of the paper that it reproduces.
        draw: Draws it from results.
        claims: Names of the claims in its caption.
    """

    title: str
    source: str
    draw: Callable[[Results], Figure]
    claims: tuple[str, ...]

    def caption(self, results: Results) -> str:
        """Return a sentence for each claim and its verdict, as Markdown."""
        shown = [claim for claim in claims(results) if claim.name in self.claims]
        return "\n".join(f"- {claim.sentence()}" for claim in shown)


FIGURES = {
    "tasks": StudyFigure("More tasks", "figure 2", scaling.tasks_figure, ("tasks", "drop")),
    "similarity": StudyFigure("Agreement of gradients", "figure 2", conflicts.similarity_figure,
                              ("similarity", "similarity remains")),
    "parameters": StudyFigure("Tasks and parameters", "figure 3", scaling.parameters_figure,
                              ("width", "equal size")),
    "conflict": StudyFigure("Conflict over training", "figures 2 and 7", conflicts.conflict_figure,
                            ("conflict", "levels", "artefact")),
    "expert_conflict": StudyFigure("Conflict inside experts", "figure 5",
                                   conflicts.expert_conflict_figure,
                                   ("group conflict", "group agreement", "gradient agreement")),
    "experts": StudyFigure("Number of experts", "figures 6 and 8", scaling.experts_figure,
                           ("experts", "experts level", "oracle")),
    "stopping": StudyFigure("When the backbone stops", "figure 7", ablations.stopping_figure,
                            ("stopping", "stopping early", "backbone")),
    "width": StudyFigure("Width and shape", "figures 8 and 10", scaling.width_figure,
                         ("width gain", "router gap", "shape")),
    "top_k": StudyFigure("Top-k routing", "figure 9", ablations.top_k_figure, ("top-k",)),
    "domains": StudyFigure("Domains", "figure 11", domains.domains_figure, ("domains", "control")),
    "modules": StudyFigure("Attention or MLP alone", "figure 12", conflicts.modules_figure,
                           ("modules", "module conflict")),
    "residual": StudyFigure("What experts are added to", "equations 3 and 4",
                            ablations.residual_figure, ("residual",)),
}  # fmt: skip
TABLES: dict[str, Callable[[Results], str]] = {
    "Methods (table 1)": tables.methods_table,
    "Gains (table 1)": tables.gains_table,
    "Ablations (table 2)": tables.ablations_table,
    "Domains (tables 6 and 7)": tables.domains_table,
    "Residual (equations 3 and 4)": tables.residual_table,
    "Timestep tables": tables.timestep_table,
    "Task by task": paired_table,
}


def write_outputs(file: Path, folder: Path) -> list[Path]:
    """Write the figures as PNG into `figures/`, and captions, tables and claims as Markdown.

    Args:
        file: CSV of a study's results.
        folder: The folder to write to.

    Returns:
        The files written.

    Raises:
        UserError: The results do not exist.
    """
    results = Results.read(file)
    written = []
    for name, figure in FIGURES.items():
        written.append(folder / "figures" / f"{name}.png")
        with atomic_path(written[-1]) as temporary:
            figure.draw(results).savefig(temporary, format="png", dpi=120)
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
    captions = {
        f"{f.title} ({f.source})": f"![](figures/{name}.png)\n\n{f.caption(results)}\n"
        for name, f in FIGURES.items()
    }
    return f"{results.summary()}\n\n{_sections(captions)}"


def _sections(texts: Mapping[str, str]) -> str:
    return "\n".join(f"# {title}\n\n{text}" for title, text in texts.items())
