"""TensorBoard pages other than training curves: the layout, task groups, scores, animations.

Letters: N tasks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from m3dt.plots.run_figures import heat_map
from m3dt.tasks import DOMAINS

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
    "scores": {"mean": ["eval/score"], "domains": [f"eval/{d}/score" for d in DOMAINS]},
}
LAYOUT = {
    title: {chart: ["Multiline", tags] for chart, tags in charts.items()}
    for title, charts in _CHARTS.items()
}


def write_layout(run: Path) -> None:
    """Write the layout of the custom scalars page of a run, once."""
    folder = run / "logs" / "layout"
    if not folder.exists():
        with SummaryWriter(str(folder)) as writer:
            writer.add_custom_scalars(LAYOUT)


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
            order = [i for group in groups for i in group]
            norms = np.sqrt(np.clip(np.diag(gram), 1e-30, None))
            cosines = (gram / norms[:, None] / norms)[np.ix_(order, order)]
            figure = heat_map(
                cosines,
                rows=[tasks[i] for i in order],
                columns=[f"{g}" for g, group in enumerate(groups) for _ in group],
                title="agreement of the tasks' gradients (cosine), by group",
                x_label="group",
                borders=np.cumsum([len(group) for group in groups])[:-1].tolist(),
            )
            writer.add_figure("grouping/agreement", figure)


def write_confusion(run: Path, confusion: Sequence[Sequence[float]], step: int) -> None:
    """Write which expert's gate the prompts of each group get, (groups, experts)."""
    numbers = [str(e) for e in range(len(confusion))]
    figure = heat_map(
        np.array(confusion),
        rows=[f"group {e}" for e in numbers],
        columns=numbers,
        title="mean gate of the agent's prompts",
        x_label="expert",
    )
    with SummaryWriter(str(run / "logs" / "prompt_router")) as writer:
        writer.add_figure("router/confusion", figure, step)


def write_scores(run: Path, name: str, step: int, result: Mapping[str, Any]) -> None:
    """Write the scores of a model, as a TensorBoard run of its own."""
    with SummaryWriter(str(run / "logs" / "evaluation" / name.replace(":", "-"))) as writer:
        for key, value in score_scalars(result).items():
            writer.add_scalar(key, value, step)


def write_video(
    run: Path, name: str, task: str, step: int, gif: bytes, size: Sequence[int]
) -> None:
    """Write an animated GIF, of `size` (height, width) in pixels, to the images of a model."""
    image = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=gif)
    summary = Summary(value=[Summary.Value(tag=f"rollout/{task}", image=image)])
    with SummaryWriter(str(run / "logs" / "evaluation" / name.replace(":", "-"))) as writer:
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
    name: str,
    settings: Mapping[str, bool | int | float | str],
    result: Mapping[str, Any],
) -> None:
    """Write the settings that distinguish a model, and its scores, for the HParams page."""
    scores = {k: v for k, v in score_scalars(result).items() if not k.startswith("eval/task/")}
    with SummaryWriter(str(run / "logs" / "hparams" / name.replace(":", "-"))) as writer:
        final = {f"final/{key}": value for key, value in scores.items()}
        writer.add_hparams({"model": name, **settings}, final, run_name=".")
