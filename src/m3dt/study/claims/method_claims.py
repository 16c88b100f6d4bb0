"""Claims about M3DT, other methods and the parts of M3DT: tables 1, 2, 6, 7, figures 7, 9, 11."""

from m3dt.study import paper, queries
from m3dt.study.claims.claim import NO_NUMBER, NOT_IN_PAPER, Claim, compare, listed
from m3dt.study.estimates import Scores, format_scores, minus
from m3dt.study.paper import ABLATIONS, M3DT, reference_method
from m3dt.study.queries import CONTROL, FEW, MANY, MEDIUM, TASK_COUNTS
from m3dt.study.study_results import Results
from m3dt.tasks import DOMAINS

_ABLATED = (
    ("three stages", "m3dt-end-to-end", "Three stages beat training end to end"),
    ("grouping", "m3dt-ungrouped", "Task groups beat no groups"),
    ("big experts", "m3dt-big-experts", "Experts inside the blocks beat big experts"),
    ("freezing", "m3dt-unfrozen-gradient", "Freezing the experts of gradient groups beats "
     "training them on with the router"),
    ("freezing random", "m3dt-unfrozen-random", "Freezing the experts of random groups beats "
     "training them on with the router"),
)  # fmt: skip


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


def ablation_claims(results: Results) -> list[Claim]:
    """Return the claims about what each part of M3DT contributes, and two of our choices."""
    return [
        *(_ablation(results, name, method, text) for name, method, text in _ABLATED),
        *_stopping(results),
        _top_k(results),
        *_choices(results),
    ]


def _lead(results: Results, method: str, tasks: int) -> Claim:
    size = queries.num_parameters(results, "m3dt", tasks, method=method)
    title = f"{M3DT[method]}, {size} parameters" if size else M3DT[method]
    ours = title, queries.m3dt_scores(results, tasks, method=method)
    text = f"{M3DT[method]} beats the best baseline of its backbone's width at {tasks} tasks"
    stated = f"by {paper.GAINS[method][tasks]} %" if tasks in paper.GAINS[method] else NO_NUMBER
    gain = queries.gain(results, tasks, method)
    return compare(
        f"{method} {tasks}", text, stated, ours, queries.best_baseline(results, tasks),
        note=f", {format_scores(gain, ' %')}" if gain else "",
    )  # fmt: skip


def _growing_lead(results: Results) -> Claim:
    method = "m3dt-random"
    text = f"{M3DT[method]}'s lead over the best baseline grows with tasks"
    stated = "from {} to {} %".format(*(paper.GAINS[method][n] for n in (FEW, MANY)))
    many, few = (queries.gain(results, tasks, method) for tasks in (MANY, FEW))
    at_many, at_few = (f"At {MANY} tasks", many), (f"at {FEW}", few)
    return compare("growing lead", text, stated, at_many, at_few, " %")


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
    leads, shown = [], []
    for domain in DOMAINS:
        best = queries.best_baseline(results, MEDIUM, domain)
        leads.append(minus(queries.m3dt_scores(results, column=domain), best.scores))
        shown.append(f"{domain}: {format_scores(leads[-1])} over {best.title}")
    text = f"M3DT-Gradient is ahead in every domain at {MEDIUM} tasks"
    ours = f"Points over the best baseline in {', '.join(shown)}"
    return Claim("domains", text, NOT_IN_PAPER, ours, tuple(leads))


def _control(results: Results) -> Claim:
    method = "m3dt-gradient"
    text = f"M3DT-Gradient scores lower on Meta-World and DMControl when trained on {MANY} tasks"
    stated = ", ".join(f"{n} tasks: {value}" for n, value in paper.METAWORLD_DMCONTROL.items())
    few, many = (queries.scores_on_list(results, FEW, n, method, CONTROL) for n in (FEW, MANY))
    own = listed((f"{n} tasks", queries.control_scores(results, n, "m3dt", method))
                 for n in TASK_COUNTS)  # fmt: skip
    return compare("control", text, f"{stated}, each on its own tasks", (f"trained on {FEW}", few),
                   (f"on {MANY}", many), note=f"; each on its own tasks, {own}")  # fmt: skip


def _ablation(results: Results, name: str, method: str, text: str) -> Claim:
    stated = NO_NUMBER
    if method in paper.ABLATION_SCORES:
        whole = paper.ABLATION_SCORES["m3dt-random"]
        stated = f"M3DT-Random {whole}, this {paper.ABLATION_SCORES[method]}"
    better, worse = (
        (ABLATIONS[m], queries.ablation_scores(results, m))
        for m in (reference_method(method), method)
    )
    return compare(name, text, stated, better, worse)


def _stopping(results: Results) -> list[Claim]:
    found, default = queries.scores_by(results, "backbone"), queries.base().stage1.max_steps
    shortest, longest = min(found), max(found)
    ours = f"{default:,}", found[default]
    return [
        compare("stopping", f"A backbone trained for {default:,} steps, with its learning rate "
                "decayed to zero, makes a better M3DT than longer training",
                "400k steps, the peak of conflict, beat 600k and more", ours,
                (f"{longest:,}", found[longest] if longest > default else {})),
        compare("stopping early", f"A backbone trained for {default:,} steps makes a better M3DT "
                "than shorter training", "400k steps beat 200k", ours,
                (f"{shortest:,}", found[shortest] if shortest < default else {})),
    ]  # fmt: skip


def _top_k(results: Results) -> Claim:
    known = {k: scores for k, scores in queries.scores_by_top_k(results).items() if scores}
    best: tuple[str, Scores] = ("top k", {})
    if known:
        k = max(known, key=lambda k: sum(known[k].values()) / len(known[k]))
        best = f"best k = {k}", known[k]
    each = listed((f"k = {k}", scores) for k, scores in known.items())
    dense = "All experts", queries.m3dt_scores(results)
    return compare("top-k", "A dense router beats a top-k router", NO_NUMBER, dense, best,
                   note=f"; {each}" if each else "")  # fmt: skip


def _choices(results: Results) -> list[Claim]:
    to_h, to_norm = queries.residual_scores(results)
    small, large = queries.timestep_scores(results)
    std = queries.base().model.timestep_std
    return [
        compare("residual", "Adding experts to h, as in the paper, beats adding them to LN(h), as "
                "in its code", NOT_IN_PAPER, ("to h", to_h), ("to LN(h)", to_norm)),
        compare("timesteps", f"Timestep embeddings initialised from N(0, {std}^2) beat N(0, 1)",
                NOT_IN_PAPER, ("small", small), ("N(0, 1)", large)),
    ]  # fmt: skip
