"""Claims on M3DT beside other methods: tables 1, 6, 7, figure 11."""

from __future__ import annotations

from dataclasses import replace

from m3dt.study import paper
from m3dt.study.claims.claim import (
    NO_NUMBER,
    OURS,
    Claim,
    compare,
    joint_verdict,
    say,
    verdict,
)
from m3dt.study.estimates import Results, difference, minus
from m3dt.study.figures.comparison import M3DT, TASKS, best_baseline, gain
from m3dt.study.lookup import (
    CONTROL,
    MAIN,
    control,
    equal_sizes,
    m3dt,
    on_list,
    parameters,
    prompt_dt,
)
from m3dt.tasks import DOMAINS

_FEW, _MANY = 10, 160


def method_claims(results: Results) -> list[Claim]:
    """Return the claims on M3DT's lead over other methods."""
    return [
        *(_lead(results, method, tasks) for method in M3DT for tasks in (MAIN, _MANY)),
        _growing_lead(results),
        *_at_equal_cost(results),
        *(_groupings(results, tasks) for tasks in (MAIN, _MANY)),
        _domains(results),
        _control(results),
    ]


def _lead(results: Results, method: str, tasks: int) -> Claim:
    size = parameters(results, "m3dt", tasks, method=method)
    sized = f"{M3DT[method]}, {size} parameters" if size else M3DT[method]
    ours = sized, m3dt(results, tasks, method=method)
    text = f"{M3DT[method]} beats the best baseline of its backbone's width at {tasks} tasks"
    stated = f"by {paper.GAINS[method][tasks]} %" if tasks in paper.GAINS[method] else NO_NUMBER
    found = compare(f"{method} {tasks}", text, stated, ours, best_baseline(results, tasks))
    change = gain(results, tasks, method)
    told = f"{found.ours}, {say(change, ' %')}" if change else found.ours
    return Claim(found.name, text, stated, told, found.verdict)


def _growing_lead(results: Results) -> Claim:
    method = "m3dt-random"
    stated = "from {} to {} %".format(*(paper.GAINS[method][n] for n in (_FEW, _MANY)))
    return compare(
        "growing lead",
        f"{M3DT[method]}'s lead over the best baseline grows with tasks",
        stated,
        (f"At {_MANY} tasks", gain(results, _MANY, method)),
        (f"at {_FEW}", gain(results, _FEW, method)),
        " %",
    )


def _at_equal_cost(results: Results) -> list[Claim]:
    dense = "M3DT-Gradient", m3dt(results)
    stated = f"by {paper.GAINS['m3dt-gradient'][_MANY]} % at {_MANY} tasks"
    small, equal = equal_sizes(results)
    return [
        compare("equal size", "M3DT beats a Prompt-DT of as many parameters", stated,
                (f"M3DT of {small.title}", small.scores),
                (f"Prompt-DT of {equal.title}", equal.scores)),
        compare("equal steps", "M3DT beats Prompt-DT of its backbone's width, trained for the "
                "steps of backbone, one expert and router together (M3DT's experts learn at once "
                "and see more segments)",
                NO_NUMBER, dense, ("Prompt-DT", prompt_dt(results, MAIN))),
        compare("backbone", "M3DT beats its own backbone", NO_NUMBER, dense,
                ("backbone", m3dt(results, column="backbone"))),
    ]  # fmt: skip


def _groupings(results: Results, tasks: int) -> Claim:
    gains = (paper.GAINS[method][_MANY] for method in ("m3dt-gradient", "m3dt-random"))
    stated = "{} against {} % over the best baseline".format(*gains)
    gradient, random = (
        (M3DT[method], m3dt(results, tasks, method=method))
        for method in ("m3dt-gradient", "m3dt-random")
    )
    text = f"Gradient groups beat random ones at {tasks} tasks"
    return compare(f"gradient groups {tasks}", text, stated, gradient, random)


def _domains(results: Results) -> Claim:
    verdicts, told = [], []
    for domain in DOMAINS:
        ours = m3dt(results, column=domain)
        best, scores = best_baseline(results, MAIN, domain)
        verdicts.append(verdict(difference(ours, scores)))
        told.append(f"{domain}: {say(minus(ours, scores))} over {best}")
    text = f"M3DT-Gradient is ahead in every domain at {MAIN} tasks"
    listed = f"Points over the best baseline in {', '.join(told)}"
    return Claim("domains", text, OURS, listed, joint_verdict(verdicts))


def _control(results: Results) -> Claim:
    method = "m3dt-gradient"
    scores = {n: control(results, n, "m3dt", method) for n in TASKS}
    text = f"M3DT-Gradient plays Meta-World and DMControl worse where it learned {_MANY} tasks"
    stated = ", ".join(f"{n} tasks: {value}" for n, value in paper.METAWORLD_DMCONTROL.items())
    few, many = (on_list(results, _FEW, n, method, CONTROL) for n in (_FEW, _MANY))
    claim = compare("control", text, f"{stated}, each on its own tasks",
                    (f"{_FEW} learned", few), (f"{_MANY} learned", many))  # fmt: skip
    own = ", ".join(f"{n} tasks: {say(found)}" for n, found in scores.items())
    return replace(claim, ours=f"{claim.ours}; each on its own tasks, {own}")
