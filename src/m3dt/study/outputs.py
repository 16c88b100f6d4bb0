"""Everything that is made of a study's results: figures, tables, and the paper's claims."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from m3dt.study import new_task_tables, new_tasks, tables
from m3dt.study.claims.baseline_claims import baseline_claims
from m3dt.study.claims.claim import MISSING, Claim
from m3dt.study.claims.conflict_claims import conflict_claims
from m3dt.study.claims.method_claims import ablation_claims, method_claims
from m3dt.study.claims.new_task_claims import new_task_claims
from m3dt.study.claims.scaling_claims import scaling_claims
from m3dt.study.figures import ablation_figures as ablations
from m3dt.study.figures import conflict_figures as conflict
from m3dt.study.figures import score_figures as scores
from m3dt.study.figures.new_task_figures import new_tasks_figure
from m3dt.study.figures.panels import share_ranges, without_empty
from m3dt.study.study_results import Results
from m3dt.utils.files import atomic_path


@dataclass(frozen=True)
class StudyFigure:
    """A figure and the claims that it shows.

    `source` names the figures or equations of the paper that it reproduces, and `claims` the claims
    in its caption, by patterns such as `m3dt-gradient *` for any number of tasks.
    """

    title: str
    source: str
    panels: Callable[[Results], Figure]
    claims: tuple[str, ...]

    def draw(self, results: Results) -> Figure | None:
        """Draw the panels that have results, None if there are none."""
        figure = without_empty(self.panels(results))
        if figure is not None:
            share_ranges(figure)
        return figure

    def caption(self, results: Results) -> str:
        """Return a sentence for each claim and its verdict, as Markdown."""
        shown = [c for c in claims(results) if any(fnmatch(c.name, name) for name in self.claims)]
        return "\n".join(f"- {claim.sentence()}" for claim in shown)


FIGURES = {
    "tasks": StudyFigure("More tasks", "figure 2", scores.tasks_figure, ("tasks", "drop")),
    "similarity": StudyFigure("Agreement of gradients", "figure 2", conflict.similarity_figure,
                              ("similarity", "similarity remains")),
    "parameters": StudyFigure("Tasks and parameters", "figure 3", scores.parameters_figure,
                              ("width", "equal size")),
    "conflict": StudyFigure("Conflict over training", "figures 2 and 7", conflict.conflict_figure,
                            ("conflict", "levels", "artefact")),
    "expert_conflict": StudyFigure("Conflict inside experts", "figure 5",
                                   conflict.expert_conflict_figure,
                                   ("group conflict", "group agreement", "gradient agreement")),
    "experts": StudyFigure("Number of experts", "figures 6 and 8", ablations.experts_figure,
                           ("experts", "experts level", "oracle")),
    "stopping": StudyFigure("When the backbone stops", "figure 7", ablations.stopping_figure,
                            ("stopping", "stopping early", "backbone")),
    "width": StudyFigure("Width of backbone and experts", "figure 8", ablations.width_figure,
                         ("width gain", "router gap")),
    "expert_shape": StudyFigure("Few wide or many narrow experts", "a question of ours",
                                ablations.expert_shape_figure, ("expert shape",)),
    "top_k": StudyFigure("Top-k routing", "figure 9", ablations.top_k_figure, ("top-k",)),
    "shape": StudyFigure("Shape of Prompt-DT", "figure 10", ablations.shape_figure, ("shape",)),
    "domains": StudyFigure("Domains", "figure 11", scores.domains_figure, ("domains", "control")),
    "profiles": StudyFigure("Performance profiles", "table 1", scores.profiles_figure,
                            ("m3dt-gradient *",)),
    "modules": StudyFigure("Attention or MLP alone", "figure 12", conflict.modules_figure,
                           ("modules", "module conflict")),
    "residual": StudyFigure("What experts are added to", "equations 3 and 4",
                            ablations.residual_figure, ("residual",)),
    "returns": StudyFigure("Returns asked for and achieved", "a question of ours",
                           ablations.returns_figure, ("returns",)),
}  # fmt: skip
TABLES: dict[str, Callable[[Results], str]] = {
    "Methods (table 1)": tables.methods_table,
    "What acts (figure 8)": tables.acting_table,
    "Widths (figure 3)": tables.widths_table,
    "Gains (table 1)": tables.gains_table,
    "Ablations (table 2)": tables.ablations_table,
    "Domains (tables 6 and 7)": tables.domains_table,
    "Residual (equations 3 and 4)": tables.residual_table,
    "Timestep tables": tables.timestep_table,
    "Task by task": tables.paired_table,
}
CLAIMS: dict[str, Callable[[Results], list[Claim]]] = {
    "scaling": scaling_claims,
    "conflict": conflict_claims,
    "methods": method_claims,
    "baselines": baseline_claims,
    "ablations": ablation_claims,
}


class Report(NamedTuple):
    """What is made of a kind of study: figures by file name, tables by title, claims by subject."""

    figures: Mapping[str, StudyFigure]
    tables: Mapping[str, Callable[[Results], str]]
    claims: Mapping[str, Callable[[Results], list[Claim]]]


_OF_METHODS = Report(FIGURES, TABLES, CLAIMS)
_OF_NEW_TASKS = Report(
    {
        "new_tasks": StudyFigure("New tasks", "the paper's open question 2", new_tasks_figure,
                                 ("expert close *", "transfer *", "forgetting *")),
    },
    {
        "New tasks": new_task_tables.ways_table,
        "New tasks one by one": new_task_tables.new_tasks_table,
        "Old tasks": new_task_tables.old_tasks_table,
    },
    {"new tasks": new_task_claims},
)  # fmt: skip


def report_of(results: Results) -> Report:
    """Return what is made of results."""
    return _OF_NEW_TASKS if new_tasks.is_of_new_tasks(results) else _OF_METHODS


def claims(results: Results, subject: str = "") -> list[Claim]:
    """Return all claims that the study tests, or those of one subject."""
    tested = report_of(results).claims
    chosen = [subject] if subject else list(tested)
    return [claim for name in chosen for claim in tested[name](results)]


def claims_table(results: Results, subject: str = "") -> str:
    """Return all claims, or those of one subject, as Markdown; those not measured come last."""
    tested = claims(results, subject)
    measured = [claim for claim in tested if claim.verdict != MISSING]
    rows = [[c.text, c.paper, c.ours, c.result, c.verdict] for c in measured]
    ours = "here, mean over seeds [95 % interval by Student's t] (seeds)"
    header = ["claim", "paper", ours, "difference by seed and its test", "verdict"]
    table = tables.markdown_table(header, rows) if rows else ""
    others = [f"- {claim.text}\n" for claim in tested if claim not in measured]
    return table + ("\nNot measured:\n\n" + "".join(others) if others else "")


def tables_and_claims(results: Results) -> dict[str, str]:
    """Return all tables and all claims as Markdown, by the names of their files."""
    report = report_of(results)
    subjects = [subject for subject in report.claims if claims(results, subject)]
    return {
        "tables": _sections({title: table(results) for title, table in report.tables.items()}),
        "claims": _sections({f"Claims: {s}": claims_table(results, s) for s in subjects}),
    }


def write_outputs(file: Path, folder: Path) -> list[Path]:
    """Write the figures of a study's CSV as PNG, and captions, tables and claims as Markdown.

    A figure of which nothing was measured is not drawn.

    Returns:
        The files written into `folder`; figures are in `folder/figures`.

    Raises:
        UserError: The results do not exist.
    """
    results = Results.read(file)
    written, captions = [], {}
    for name, figure in report_of(results).figures.items():
        drawn, shown = figure.draw(results), ""
        if drawn is not None:
            written.append(folder / "figures" / f"{name}.png")
            with atomic_path(written[-1]) as temporary:
                drawn.savefig(temporary, format="png", dpi=120)
            shown = f"![](figures/{name}.png)\n\n"
        captions[f"{figure.title} ({figure.source})"] = f"{shown}{figure.caption(results)}\n"
    figures = f"{results.summary()}\n\n{_sections(captions)}"
    for name, text in {"figures": figures, **tables_and_claims(results)}.items():
        written.append(folder / f"{name}.md")
        with atomic_path(written[-1]) as temporary:
            temporary.write_text(text)
    return written


def _sections(texts: Mapping[str, str]) -> str:
    return "\n".join(f"# {title}\n\n{text}" for title, text in texts.items())
