"""Claims about new tasks for a trained agent, the paper's second open question."""

from m3dt.study import new_tasks
from m3dt.study.claims.claim import NOT_IN_PAPER, Claim, compare, listed
from m3dt.study.estimates import Scores, minus
from m3dt.study.new_tasks import BEFORE, JOINED, WAYS
from m3dt.study.study_results import Results

CLOSE = 2.0  # points within which an expert counts as no worse than fine-tuning
FORGOTTEN = 0.5  # points of old tasks that an extension may lose


def new_task_claims(results: Results) -> list[Claim]:
    """Return the claims about ways to meet new tasks, and about what extension does to old ones."""
    several = new_tasks.trajectories(results)
    by_number = [claim for number in several for claim in _ways(results, number)]
    at_once = [_forgetting(results, "expert", number) for number in several]
    return [*by_number, *at_once, _forgetting(results, "row", max(several))]


def _ways(results: Results, number: int) -> list[Claim]:
    ways = {name: new_tasks.scores(results, way, number) for name, way in WAYS.items()}
    rate, tuned = new_tasks.best_tuned(results, number)
    of, expert = f"with {number} trajectories of a task", ("new expert", ways["expert"])
    fine = (f"full fine-tuning at rate {float(rate):g}" if rate else "full fine-tuning", tuned)
    return [
        _at_most(f"expert close {number}", f"A new expert scores at most {CLOSE:g} points less "
                 f"than full fine-tuning {of}", CLOSE, fine, expert),
        compare(f"transfer {number}", f"A new expert on the frozen backbone scores above a model "
                f"from scratch {of}", NOT_IN_PAPER, expert, ("from scratch", ways["scratch"])),
        compare(f"expert learns {number}", f"A new expert scores above the agent without it {of}",
                NOT_IN_PAPER, expert, ("zero-shot", ways["zero-shot"])),
        compare(f"nearest {number}", "A new expert scores above the action of the nearest recorded "
                f"state {of}", NOT_IN_PAPER, expert, ("nearest", ways["nearest"])),
        _at_most(f"routed {number}", f"The router loses at most {CLOSE:g} points of what each new "
                 f"task's own expert scores {of}", CLOSE,
                 ("own expert", ways["own expert"]), expert),
    ]  # fmt: skip


def _forgetting(results: Results, part: str, number: int) -> Claim:
    before, after = (
        (title, new_tasks.old_scores(results, part, number, model))
        for title, model in (("before", BEFORE), ("after", ""))
    )
    text = f"Old tasks lose at most {FORGOTTEN:g} points when new ones join {JOINED[part]}"
    name = f"forgetting {number if part == 'expert' else part}"
    return _at_most(name, f"{text}, {number} trajectories each", FORGOTTEN, before, after)


def _at_most(
    name: str, text: str, margin: float, first: tuple[str, Scores], second: tuple[str, Scores]
) -> Claim:
    """Return the claim that the second loses less than a margin of the first."""
    left = {seed: change + margin for seed, change in minus(second[1], first[1]).items()}
    lost = f"difference without the margin: {listed([('', minus(second[1], first[1]))])[2:]}"
    ours = f"{listed((first, second))}; {lost}"
    return Claim(name, text, NOT_IN_PAPER, ours, {f"above -{margin:g}": left})
