"""Scores by seed over the settings of a method: experts, widths, steps, shapes, targets.

As in `queries`, cells without a value of a setting have that of the study's base configuration.
"""

from typing import Literal

from m3dt.study.estimates import Scores
from m3dt.study.paper import M3DT, PROMPT_DT
from m3dt.study.queries import (
    Titled,
    baseline_scores,
    m3dt_scores,
    prompt_dt_scores,
    suite_name,
    widths,
)
from m3dt.study.study_results import Results

SHAPE = ("n_layer", "n_head", "n_embd")  # of Prompt-DT, as figure 10 varies it
_SETTINGS = {"experts": "moe.num_experts", "width": "model.n_embd", "backbone": "stage1.max_steps"}


def scores_by(
    results: Results,
    part: Literal["experts", "width", "backbone"],
    column: str = "score",
    tasks: int | None = None,
) -> dict[int, Scores]:
    """Return M3DT's scores by number of experts, width, or training steps of its backbone."""
    base, name, setting = results.base, suite_name(results, tasks), _SETTINGS[part]
    default = {
        "experts": base.moe.num_experts,
        "width": base.model.n_embd,
        "backbone": base.stage1.max_steps,
    }[part]
    found: dict[int, Scores] = {
        value: results.scores(part, column, suite=name, **{setting: value})
        for value in results.values(part, setting, suite=name)
    }
    return dict(sorted({**found, default: m3dt_scores(results, tasks, column)}.items()))


def equal_sizes(results: Results) -> tuple[Titled, Titled]:
    """Return the narrowest M3DT, and the Prompt-DT with the nearest number of parameters."""

    def sizes(part: str, width: int) -> list[float]:
        found = results.scores(part, "parameters", suite=suite_name(results), n_embd=width)
        return list(found.values())

    narrow = min(widths(results, "width"))
    ours = sizes("width", narrow)
    candidates = {width: size[0] for width in widths(results) if (size := sizes("size", width))}
    if not ours or not candidates:
        return Titled(f"width {narrow}", {}), Titled("that size", {})
    width = min(candidates, key=lambda width: abs(candidates[width] - ours[0]))
    m3dt = scores_by(results, "width")[narrow]
    return (
        Titled(f"width {narrow}, {ours[0]:,.0f} parameters", m3dt),
        Titled(
            f"width {width}, {candidates[width]:,.0f} parameters",
            prompt_dt_scores(results, width=width),
        ),
    )


def scores_by_expert_shape(results: Results) -> dict[str, Scores]:
    """Return M3DT's scores by experts x width, at about equal parameters in experts."""
    base, name = results.base, suite_name(results)
    found = {f"{base.moe.num_experts} x {base.model.n_embd}": m3dt_scores(results)}
    many, few = (
        {
            f"{experts} x {width}": results.scores(part, suite=name)
            for experts in results.values(part, "num_experts")
            for width in results.values(part, "n_embd")
        }
        or {part: {}}
        for part in ("narrow", "wide")
    )
    return {**many, **found, **few}


def scores_by_shape(results: Results) -> dict[str, Scores]:
    """Return Prompt-DT's scores by layers x heads x width; the study's own shape comes first.

    Other shapes are in the parts of a study whose names begin with `shape`, empty without any.
    """
    own = [str(getattr(results.base.model, setting)) for setting in SHAPE]
    found = {" x ".join(own): prompt_dt_scores(results)}
    shapes = {
        tuple(row.get(f"model.{k}") or default for k, default in zip(SHAPE, own, strict=True)): part
        for row in results.rows
        if (part := row["part"]).startswith("shape")
    }
    for shape in sorted(shapes, key=lambda shape: tuple(map(int, shape))):
        # A part leaves out what it does not vary.
        values = {k: v for k, v, default in zip(SHAPE, shape, own, strict=True) if v != default}
        scores = results.scores(shapes[shape], suite=suite_name(results), **values)
        found.setdefault(" x ".join(shape), scores)
    return found


def scores_by_top_k(results: Results, experts: int | None = None) -> dict[int, Scores]:
    """Return the scores of M3DT with top-k routers by k, by default of the usual experts."""
    name, count = suite_name(results), experts or results.base.moe.num_experts
    return {
        k: results.scores("top-k", suite=name, num_experts=count, top_k=k)
        for k in results.values("top-k", "top_k", suite=name, num_experts=count)
    }


def residual_scores(results: Results, column: str = "score") -> tuple[Scores, Scores]:
    """Return M3DT's scores with experts added to h, and with experts added to LN(h)."""
    official = results.scores("residual", column, suite=suite_name(results), residual="official")
    return m3dt_scores(results, column=column), official


def timestep_scores(results: Results, column: str = "score") -> tuple[Scores, Scores]:
    """Return Prompt-DT's scores with small initial timestep embeddings, and with N(0, 1)."""
    small = baseline_scores(results, results.medium, PROMPT_DT, column)
    return small, results.scores("timestep", column, suite=suite_name(results))


def scores_over_training(results: Results) -> dict[int, Scores]:
    """Return Prompt-DT's scores by its training steps, the part `training` of a study."""
    given = {"suite": suite_name(results), "method": PROMPT_DT}
    steps = results.values("training", "baseline.max_steps", **given)
    return {
        step: results.scores("training", "score", **given, **{"baseline.max_steps": step})
        for step in steps
    }


def scores_by_target(results: Results, method: str, column: str = "score") -> dict[float, Scores]:
    """Return a method's scores by the share of the target return that it is asked for.

    Other shares than 1 are the part `returns` of a study; without it, there is nothing.
    """
    given = {"suite": suite_name(results), "method": method}
    asked = results.numbers("returns", "target_scale", **given)
    found = {float(x): results.scores("returns", column, target_scale=x, **given) for x in asked}
    if found:
        part = "m3dt" if method in M3DT else "baselines"
        found.setdefault(1.0, results.scores(part, column, **given))
    return dict(sorted((x, scores) for x, scores in found.items() if scores))
