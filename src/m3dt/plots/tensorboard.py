"""TensorBoard pages other than training curves: the layout, task groups, scores, animations.

Letters: N tasks.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from m3dt.plots.run_figures import agreement_figure, heat_map
from m3dt.tasks import DOMAINS, domains_of

# The custom scalars page: backbone, experts and router together, one chart per question.
_CHARTS = {
    "training": {"loss": ["train/loss"], "gradient norm": ["train/gradient_norm"]},
    "conflict between tasks": {
        "backbone": ["conflict/mean", "conflict/smoothed"],
        "attention and MLP": ["conflict/attention", "conflict/mlp"],
        "experts": ["conflict/experts_grouped", "conflict/experts_all"],
    },
    "similarity, and its value for independent gradients": {
        "backbone": ["similarity/to_mean", "similarity/leave_one_out", "similarity/independent"],
        "experts": ["similarity/experts_grouped", "similarity/experts_all"],
    },
    "router": {"entropy and load": ["router/entropy", "router/load_max"]},
}


def layout(domains: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """Return the custom scalars page of runs with tasks of these domains."""
    by_domain = [f"eval/{domain}/score" for domain in domains]
    charts = {**_CHARTS, "scores": {"mean": ["eval/score"], "domains": by_domain}}
    return {
        title: {chart: ["Multiline", tags] for chart, tags in own.items()}
        for title, own in charts.items()
    }


def write_layout(run: Path, tasks: Iterable[str]) -> None:
    """Write the layout of the custom scalars page of a run, again where tasks add domains."""
    folder = run / "logs" / "layout"
    known = folder / "domains.json"
    written = _written_domains(known)
    domains = list(dict.fromkeys((*DOMAINS, *written, *domains_of(tasks))))
    if domains != written:
        rmtree(folder, ignore_errors=True)
        with SummaryWriter(str(folder)) as writer:
            writer.add_custom_scalars(layout(domains))
        known.write_text(json.dumps(domains))


def _written_domains(file: Path) -> list[str]:
    """Return the domains of the layout that a run has: none if the file is missing or damaged."""
    try:
        return [str(domain) for domain in json.loads(file.read_bytes())]
    except (FileNotFoundError, TypeError, ValueError):
        return []


def write_groups(
    run: Path, gram: np.ndarray | None, groups: Sequence[Sequence[int]], tasks: Sequence[str]
) -> None:
    """Write the task groups and the agreement of their tasks' gradients.

    `gram` holds the inner products of the tasks' gradients, (N, N), or is None for random groups.
    `groups` are indices into the names of the N tasks.
    """
    with SummaryWriter(str(run / "logs" / "grouping")) as writer:
        lines = ["| group | tasks |", "|---|---|"]
        lines += [f"| {g} | {', '.join(tasks[i] for i in own)} |" for g, own in enumerate(groups)]
        writer.add_text("grouping/groups", "\n".join(lines))
        if gram is not None:
            ordered = order_by_distance(gram, groups)
            order = [i for group in ordered for i in group]
            figure = agreement_figure(gram, order, [len(group) for group in ordered], tasks)
            writer.add_figure("grouping/agreement", figure)


def order_by_distance(gram: np.ndarray, groups: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return groups of tasks so that neighbours are near each other by K-means' distance.

    Each group follows the one with the nearest centre, and its tasks begin with the nearest to
    its own centre.

    Args:
        gram: Inner products of the tasks' vectors, (N, N).
        groups: Indices of the N tasks, by group; an empty group is left out.
    """
    left = [list(group) for group in groups if group]
    centers = np.zeros((len(left), len(gram)))  # weights of the tasks
    for number, group in enumerate(left):
        centers[number, group] = 1 / len(group)
    products, lengths = centers @ gram, np.einsum("gi,ij,gj->g", centers, gram, centers)
    distances = lengths[:, None] + lengths - 2 * products @ centers.T
    to_center = np.diag(gram) - 2 * products + lengths[:, None]  # (groups, N)
    chain = [0] if left else []
    while len(chain) < len(left):
        others = [g for g in range(len(left)) if g not in chain]
        chain.append(min(others, key=lambda g: distances[chain[-1], g]))
    return [sorted(left[g], key=lambda i: to_center[g, i]) for g in chain]


def write_confusion(run: Path, confusion: Sequence[Sequence[float]], step: int) -> None:
    """Write which expert's gate the prompts of each group get, (groups, experts)."""
    numbers = [str(e) for e in range(len(confusion))]
    figure = heat_map(
        np.array(confusion),
        rows=[f"group {e}" for e in numbers],
        columns=numbers,
        title="mean gate of the agent's prompts",
        x_label="expert",
        even=1 / len(confusion),
        outlined=range(len(confusion)),
    )
    with SummaryWriter(str(run / "logs" / "prompt_router")) as writer:
        writer.add_figure("router/confusion", figure, step)


def write_scores(run: Path, page: str, step: int, result: Mapping[str, Any]) -> None:
    """Write the scores of an evaluation, as a TensorBoard run of its own, called `page`."""
    with SummaryWriter(str(run / "logs" / "evaluation" / page)) as writer:
        for key, value in score_scalars(result).items():
            writer.add_scalar(key, value, step)


def write_video(
    run: Path, page: str, task: str, step: int, gif: bytes, size: Sequence[int]
) -> None:
    """Write an animated GIF, of `size` (height, width) in pixels, to an evaluation's images."""
    image = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=gif)
    summary = Summary(value=[Summary.Value(tag=f"rollout/{task}", image=image)])
    with SummaryWriter(str(run / "logs" / "evaluation" / page)) as writer:
        writer._get_file_writer().add_summary(summary, step)


def score_scalars(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of an evaluation under their TensorBoard tags."""
    return {
        "eval/score": result["score"],
        **{f"eval/{domain}/score": score for domain, score in result["domains"].items()},
        **{f"eval/task/{task}": summary["score"] for task, summary in result["tasks"].items()},
    }


def write_hyperparameters(
    run: Path,
    page: str,
    name: str,
    settings: Mapping[str, bool | int | float | str],
    result: Mapping[str, Any],
) -> None:
    """Write the settings that distinguish an evaluation, and its scores, for the HParams page."""
    scores = {k: v for k, v in score_scalars(result).items() if not k.startswith("eval/task/")}
    with SummaryWriter(str(run / "logs" / "hparams" / page)) as writer:
        final = {f"final/{key}": value for key, value in scores.items()}
        # TensorBoard sorts the names and shows the first ones.
        others = {key: value for key, value in settings.items() if key != "method"}
        own = {"1 model": name, "2 method": result["method"], **others}
        writer.add_hparams(own, final, run_name=".")
