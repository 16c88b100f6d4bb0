"""Markdown tables of the study of new tasks: ways to meet them, old tasks, costs."""

from m3dt.study import new_tasks
from m3dt.study.estimates import Scores, format_scores, minus
from m3dt.study.new_tasks import BEFORE, JOINED, WAYS
from m3dt.study.study_results import Results
from m3dt.study.tables import markdown_table
from m3dt.utils.counts import counted


def ways_table(results: Results) -> str:
    """Return the scores on new tasks by way and number of trajectories."""
    numbers = new_tasks.trajectories(results)
    sizes = new_tasks.trained_parameters(results)
    rows = []
    for name, way in WAYS.items():
        several = new_tasks.rates(results, way.part) if name == "tuned" else [""]
        for rate in several:
            found = [new_tasks.scores(results, way, number, rate) for number in numbers]
            if any(found):
                title = f"{way.title}, rate {float(rate):g}" if rate else way.title
                trained = f"{sizes[way.part]:,.0f}" if way.part in sizes else "0"
                shown = (format_scores(scores) if scores else "" for scores in found)
                rows.append([title, trained, *shown])
    header = ["way", "trained parameters per task"]
    return markdown_table([*header, *(counted(n, "trajectory") for n in numbers)], rows)


def new_tasks_table(results: Results) -> str:
    """Return the scores by new task, means over seeds, with the most trajectories."""
    number = max(new_tasks.trajectories(results))
    tasks, rows = new_tasks.new_tasks(results), []
    rate, _ = new_tasks.best_tuned(results, number)
    for name, way in WAYS.items():
        by_task: dict[str, list[float]] = {task: [] for task in tasks}
        for row in new_tasks.cells(results, way.part, number, rate if name == "tuned" else ""):
            for task, score in new_tasks.task_scores(results, row, way.model).items():
                if task in by_task:
                    by_task[task].append(score)
        if all(by_task.values()):
            rows.append([way.title, *(f"{sum(x) / len(x):.0f}" for x in by_task.values())])
    return markdown_table([f"{counted(number, 'trajectory')}, mean over seeds", *tasks], rows)


def old_tasks_table(results: Results) -> str:
    """Return the scores on old tasks before and after an extension."""
    rows = []
    for part, how in JOINED.items():
        for number in new_tasks.trajectories(results):
            before, after = (
                new_tasks.old_scores(results, part, number, model) for model in (BEFORE, "")
            )
            if after:
                cells: tuple[Scores, ...] = (before, after, minus(after, before))
                rows.append([f"{how}, {counted(number, 'trajectory')}", *map(format_scores, cells)])
    return markdown_table(["new tasks join", "old tasks before", "after", "change"], rows)
