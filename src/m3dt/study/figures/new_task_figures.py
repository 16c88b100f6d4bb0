"""The figure of ways to meet new tasks."""

from matplotlib.figure import Figure

from m3dt.plots.palette import BLACK, BLUE, GREY, ORANGE, PINK, RED, SKY
from m3dt.study import new_tasks
from m3dt.study.figures import panels
from m3dt.study.figures.panels import SCORE
from m3dt.study.new_tasks import BEFORE, JOINED, WAYS
from m3dt.study.study_results import Results

_LOOKS = {
    "nearest": (GREY, "s--"),
    "backbone": (SKY, "o--"),
    "zero-shot": (PINK, "o--"),
    "expert": (RED, "o-"),
    "own expert": (ORANGE, "s--"),
    "tuned": (BLUE, "o-"),
    "scratch": (BLACK, "o-"),
}


def new_tasks_figure(results: Results) -> Figure:
    """Draw scores on new tasks over their trajectories, and those on old tasks."""
    figure, (left, right) = panels.new_figure(2, 5.4)
    numbers = new_tasks.trajectories(results)
    for shift, (name, way) in enumerate(WAYS.items()):
        color, style = _LOOKS[name]
        if name == "tuned":
            points = {number: new_tasks.best_tuned(results, number)[1] for number in numbers}
        else:
            points = {number: new_tasks.scores(results, way, number) for number in numbers}
        if any(points.values()):
            panels.draw(left, points, way.title, color, style, shift - len(WAYS) // 2)
    title = f"{len(new_tasks.new_tasks(results))} new tasks"
    panels.finish(left, title, "trajectories of each", SCORE, numbers)
    kinds = [
        (f"{how},\n{number} trajectories", part, number)
        for part, how in JOINED.items()
        for number in numbers
        if new_tasks.old_scores(results, part, number)
    ]
    before, after = (
        [new_tasks.old_scores(results, part, number, model) for _, part, number in kinds]
        for model in (BEFORE, "")
    )
    names = [name for name, _, _ in kinds]
    if names:
        panels.name_points(right, names, [("before", SKY, before), ("after", RED, after)])
    panels.finish(right, "Old tasks", "how the new ones joined", SCORE)
    return figure
