"""Claims about M3DT, other methods and the parts of M3DT: tables 1, 2, 6, 7, figures 7, 9, 11."""

from m3dt.study import paper, queries, setting_queries
from m3dt.study.claims.claim import NO_NUMBER, NOT_IN_PAPER, Claim, compare, listed
from m3dt.study.estimates import format_scores, minus
from m3dt.study.paper import ABLATIONS, BASELINES, M3DT, reference_method
from m3dt.study.queries import CONTROL
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
        *(_lead(results, method, tasks) for method in M3DT for tasks in _larger(results)),
        *([_growing_lead(results), _control(results)] if results.few < results.many else []),
        *_at_equal_cost(results),
        *_by_prompt(results),
        *(_groupings(results, tasks) for tasks in _larger(results)),
        _domains(results),
    ]


def ablation_claims(results: Results) -> list[Claim]:
    """Return the claims about what each part of M3DT contributes, and two of our choices."""
    return [
        *(_ablation(results, name, method, text) for name, method, text in _ABLATED),
        *_stopping(results),
        _top_k(results),
        *_choices(results),
    ]


def _larger(results: Results) -> list[int]:
    """Return the medium and the largest number of tasks, or both at once."""
    return sorted({results.medium, results.many})


def _lead(results: Results, method: str, tasks: int) -> Claim:
    ours = queries.m3dt_scores(results, tasks, method=method)
    size = queries.num_parameters(results, "m3dt", tasks, method=method)
    title = f"{M3DT[method]}, {size} parameters" if size else M3DT[method]
    baselines = {
        name: queries.baseline_scores(results, tasks, key) for key, name in BASELINES.items()
    }
    others = {name: scores for name, scores in baselines.items() if scores}
    text = f"{M3DT[method]} beats every measured baseline of its backbone's width at {tasks} tasks"
    gains = paper.GAINS[method]
    gain = queries.gain(results, tasks, method)
    note = f"; gain over the best one: {format_scores(gain, ' %')}" if gain else ""
    return Claim(
        f"{method} {tasks}",
        text,
        f"the best one by {gains[tasks]} %" if tasks in gains else NO_NUMBER,
        f"{listed([(title, ours), *others.items()])}{note}" if others else "",
        {f"over {name}": minus(ours, scores) for name, scores in others.items()},
    )


def _growing_lead(results: Results) -> Claim:
    method, few, many = "m3dt-random", results.few, results.many
    text = f"{M3DT[method]}'s lead over the best baseline grows with tasks"
    stated = f"from {_percent(method, few)} to {_percent(method, many)}"
    at_many, at_few = (queries.gain(results, tasks, method) for tasks in (many, few))
    return compare("growing lead", text, stated, (f"at {many} tasks", at_many),
                   (f"at {few}", at_few), "%")  # fmt: skip


def _percent(method: str, tasks: int) -> str:
    """Return the paper's gain of a method over the best baseline."""
    gains = paper.GAINS[method]
    return f"{gains[tasks]} %" if tasks in gains else "a number not stated"


def _at_equal_cost(results: Results) -> list[Claim]:
    m3dt = "M3DT-Gradient", queries.m3dt_scores(results)
    stated = f"by {paper.GAINS['m3dt-gradient'][160]} % at 160 tasks"
    narrow, equal = setting_queries.equal_sizes(results)
    return [
        compare("equal size", f"M3DT of {narrow.title.partition(',')[0]} beats a Prompt-DT with as "
                "many parameters", stated,
                (f"M3DT of {narrow.title}", narrow.scores),
                (f"Prompt-DT of {equal.title}", equal.scores)),
        compare("equal steps", "M3DT beats Prompt-DT of its backbone's width, trained for "
                f"{queries.share_of_segments(results):.0%} of the segments of backbone and experts",
                NO_NUMBER, m3dt, ("Prompt-DT", queries.prompt_dt_scores(results))),
        compare("backbone", "M3DT beats its own backbone", NO_NUMBER, m3dt,
                ("backbone", queries.m3dt_scores(results, column="backbone"))),
    ]  # fmt: skip


def _by_prompt(results: Results) -> list[Claim]:
    chosen = "M3DT, one expert by the prompt", queries.routed_by_prompt(results)
    share = f"{queries.share_of_segments(results):.0%} of the segments of backbone and experts"
    return [
        compare("prompt router", "Choosing one expert per episode by the prompt beats weighing all "
                "of them at each token", NOT_IN_PAPER, chosen,
                ("the paper's routers", queries.m3dt_scores(results))),
        compare("prompt backbone", "M3DT with one expert chosen by the prompt beats its own "
                "backbone", NOT_IN_PAPER, chosen,
                ("backbone", queries.m3dt_scores(results, column="backbone"))),
        compare("prompt equal steps", "M3DT with one expert chosen by the prompt beats Prompt-DT "
                f"trained for {share}", NOT_IN_PAPER, chosen,
                ("Prompt-DT", queries.prompt_dt_scores(results))),
    ]  # fmt: skip


def _groupings(results: Results, tasks: int) -> Claim:
    methods = ("m3dt-gradient", "m3dt-random")
    text = f"Gradient groups beat random groups at {tasks} tasks"
    gains = (paper.GAINS[method][160] for method in methods)
    stated = "{} against {} % over the best baseline at 160 tasks".format(*gains)
    gradient, random = (
        (M3DT[method], queries.m3dt_scores(results, tasks, method=method)) for method in methods
    )
    return compare(f"gradient groups {tasks}", text, stated, gradient, random)


def _domains(results: Results) -> Claim:
    leads = {}
    for domain in DOMAINS:
        best = queries.best_baseline(results, results.medium, domain)
        lead = minus(queries.m3dt_scores(results, column=domain), best.scores)
        leads[f"in {domain} over {best.title}"] = lead
    text = f"M3DT-Gradient is ahead of the best baseline in every domain at {results.medium} tasks"
    return Claim("domains", text, NOT_IN_PAPER, differences=leads)


def _control(results: Results) -> Claim:
    method, few, many = "m3dt-gradient", results.few, results.many
    text = f"M3DT-Gradient scores lower on Meta-World and DMControl when trained on {many} tasks"
    stated = ", ".join(f"{n} tasks: {value}" for n, value in paper.METAWORLD_DMCONTROL.items())
    at_few, at_many = (
        queries.scores_on_list(results, few, n, method, CONTROL) for n in (few, many)
    )
    own = listed((f"{n} tasks", queries.control_scores(results, n, "m3dt", method))
                 for n in results.task_counts)  # fmt: skip
    return compare("control", text, f"{stated}, each on its own tasks",
                   (f"trained on {few}", at_few), (f"on {many}", at_many),
                   note=f"; each on its own tasks, {own}")  # fmt: skip


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
    found, default = setting_queries.scores_by(results, "backbone"), results.base.stage1.max_steps
    shortest, longest = min(found), max(found)
    ours = f"{default:,}", found[default]
    text = f"A backbone trained for {default:,} steps{{}} makes a better M3DT than {{}} steps do"
    return [
        compare("stopping", text.format(", its learning rate decayed to zero,",
                                        f"{longest:,}" if longest > default else "more"),
                "400k steps, the peak of conflict, beat 600k and more", ours,
                (f"{longest:,}", found[longest] if longest > default else {})),
        compare("stopping early",
                text.format("", f"{shortest:,}" if shortest < default else "fewer"),
                "400k steps beat 200k", ours,
                (f"{shortest:,}", found[shortest] if shortest < default else {})),
    ]  # fmt: skip


def _top_k(results: Results) -> Claim:
    dense, found = queries.m3dt_scores(results), setting_queries.scores_by_top_k(results)
    leads = {f"over k = {k}": minus(dense, scores) for k, scores in found.items()}
    each = [("all experts", dense), *((f"k = {k}", scores) for k, scores in found.items())]
    return Claim("top-k", "A dense router beats every top-k router", NO_NUMBER,
                 listed(each) if found else "", leads)  # fmt: skip


def _choices(results: Results) -> list[Claim]:
    to_h, to_norm = setting_queries.residual_scores(results)
    small, large = setting_queries.timestep_scores(results)
    std = results.base.model.timestep_std
    return [
        compare("residual", "Adding experts to h, as in the paper, beats adding them to LN(h), as "
                "in its code", NOT_IN_PAPER, ("to h", to_h), ("to LN(h)", to_norm)),
        compare("timesteps", f"Timestep embeddings initialised from N(0, {std}^2) beat N(0, 1) "
                f"in Prompt-DT at {results.medium} tasks",
                NOT_IN_PAPER, ("small", small), ("N(0, 1)", large)),
    ]  # fmt: skip
