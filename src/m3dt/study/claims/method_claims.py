"""Claims about M3DT and other methods: tables 1, 6, 7, figure 11."""

from __future__ import annotations

from dataclasses import replace

from m3dt.study import paper, queries
from m3dt.study.claims.claim import NO_NUMBER, NOT_IN_PAPER, Claim, compare, joint_verdict, verdict
from m3dt.study.estimates import difference, format_scores, minus
from m3dt.study.method_names import M3DT
from m3dt.study.queries import CONTROL, FEW, MANY, MEDIUM, TASK_COUNTS
from m3dt.study.study_results import Results
from m3dt.tasks import DOMAINS


def method_claims(results: Results) -> list[Claim]:
    """Return the claims about M3DT's lead over other methods."""
    return [
        *(_lead(results, method, tasks) for method in M3DT for tasks in (MEDIUM, MANY)),
        _growing_lead(results),
        *_at_equal_cost(results),
        *(_groupings(results, tasks) for tasks in (MEDIUM, MANY)),
        _domains(results),
        _control(results),
    ]


def _lead(results: Results, method: str, tasks: int) -> Claim:
    size = queries.num_parameters(results, "m3dt", tasks, method=method)
    title = f"{M3DT[method]}, {size} parameters" if size else M3DT[method]
    ours = title, queries.m3dt_scores(results, tasks, method=method)
    text = f"{M3DT[method]} beats the best baseline of its backbone's width at {tasks} tasks"
    stated = f"by {paper.GAINS[method][tasks]} %" if tasks in paper.GAINS[method] else NO_NUMBER
    claim = compare(f"{method} {tasks}", text, stated, ours, queries.best_baseline(results, tasks))
    change = queries.gain(results, tasks, method)
    return replace(claim, ours=f"{claim.ours}, {format_scores(change, ' %')}") if change else claim


def _growing_lead(results: Results) -> Claim:
    method = "m3dt-random"
    text = f"{M3DT[method]}'s lead over the best baseline grows with tasks"
    stated = "from {} to {} %".format(*(paper.GAINS[method][n] for n in (FEW, MANY)))
    many, few = (queries.gain(results, tasks, method) for tasks in (MANY, FEW))
    return compare(
        "growing lead", text, stated, (f"At {MANY} tasks", many), (f"at {FEW}", few), " %"
    )


def _at_equal_cost(results: Results) -> list[Claim]:
    m3dt = "M3DT-Gradient", queries.m3dt_scores(results)
    stated = f"by {paper.GAINS['m3dt-gradient'][MANY]} % at {MANY} tasks"
    narrow, equal = queries.equal_sizes(results)
    return [
        compare("equal size", "M3DT beats a Prompt-DT with as many parameters", stated,
                (f"M3DT of {narrow.title}", narrow.scores),
                (f"Prompt-DT of {equal.title}", equal.scores)),
        compare("equal steps", "M3DT beats Prompt-DT of its backbone's width, trained for the "
                "steps of backbone, one expert and router together (M3DT's experts train in "
                "parallel and see more segments)",
                NO_NUMBER, m3dt, ("Prompt-DT", queries.prompt_dt_scores(results, MEDIUM))),
        compare("backbone", "M3DT beats its own backbone", NO_NUMBER, m3dt,
                ("backbone", queries.m3dt_scores(results, column="backbone"))),
    ]  # fmt: skip


def _groupings(results: Results, tasks: int) -> Claim:
    methods = ("m3dt-gradient", "m3dt-random")
    text = f"Gradient groups beat random groups at {tasks} tasks"
    gains = (paper.GAINS[method][MANY] for method in methods)
    stated = "{} against {} % over the best baseline".format(*gains)
    gradient, random = (
        (M3DT[method], queries.m3dt_scores(results, tasks, method=method)) for method in methods
    )
    return compare(f"gradient groups {tasks}", text, stated, gradient, random)


def _domains(results: Results) -> Claim:
    verdicts, leads = [], []
    for domain in DOMAINS:
        ours = queries.m3dt_scores(results, column=domain)
        best = queries.best_baseline(results, MEDIUM, domain)
        verdicts.append(verdict(difference(ours, best.scores)))
        leads.append(f"{domain}: {format_scores(minus(ours, best.scores))} over {best.title}")
    text = f"M3DT-Gradient is ahead in every domain at {MEDIUM} tasks"
    listed = f"Points over the best baseline in {', '.join(leads)}"
    return Claim("domains", text, NOT_IN_PAPER, listed, joint_verdict(verdicts))


def _control(results: Results) -> Claim:
    method = "m3dt-gradient"
    text = f"M3DT-Gradient scores lower on Meta-World and DMControl when trained on {MANY} tasks"
    stated = ", ".join(f"{n} tasks: {value}" for n, value in paper.METAWORLD_DMCONTROL.items())
    few, many = (queries.scores_on_list(results, FEW, n, method, CONTROL) for n in (FEW, MANY))
    claim = compare("control", text, f"{stated}, each on its own tasks",
                    (f"trained on {FEW}", few), (f"on {MANY}", many))  # fmt: skip
    scores = {n: queries.control_scores(results, n, "m3dt", method) for n in TASK_COUNTS}
    own = ", ".join(f"{n} tasks: {format_scores(found)}" for n, found in scores.items())
    return replace(claim, ours=f"{claim.ours}; each on its own tasks, {own}")
