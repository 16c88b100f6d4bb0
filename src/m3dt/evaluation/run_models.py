"""Find the models of a run by the names that a person gives them."""

from dataclasses import dataclass, replace
from typing import Any

from m3dt.config import BASELINES, Config, EvaluationConfig
from m3dt.data import DatasetStore, TaskContext
from m3dt.evaluation.gates import way_of
from m3dt.evaluation.load_agent import ACTING_KINDS, context_of_run, load_run
from m3dt.evaluation.neighbours import NearestPolicy
from m3dt.evaluation.oracle import RULES, ExpertsPolicy
from m3dt.evaluation.policies import UNTRAINED, AgentPolicy, Policy
from m3dt.evaluation.scores import ModelInfo
from m3dt.runs import BY_PROMPT, MAIN, Registry, inference_device
from m3dt.runs.evaluations import WAY
from m3dt.runs.generations import newest_generation, router_of
from m3dt.tasks import TaskSpec, get_task, tasks_of
from m3dt.utils.errors import UserError
from m3dt.utils.files import fingerprint


@dataclass(frozen=True)
class RunModel:
    """A model of a run: the policy that it acts by, and what identifies it in results."""

    policy: Policy[Any]
    info: ModelInfo

    @property
    def name(self) -> str:
        """Name in tables, such as `expert:2`."""
        return self.policy.name


def run_model(config: Config, name: str) -> RunModel:
    """Load a model of a run.

    The name is `random`, `nothing` (zero actions), `nearest` (the action of the nearest state in
    the best trajectories of the data), `backbone`, `router`, `expert:K`, `baseline:METHOD`, or one
    of `oracle`, `even` and `random-expert`, rules that choose among the experts; or empty for the
    model of the configured method, as far as it is trained. `router` means the router of
    `moe.router`, `router:main` and `router:prompt` the one by tokens and by prompts, and
    `router:prompt-K` that of the K-th extension. What follows an `@` replaces `evaluation.gates`
    and `evaluation.experts`: `router@episode`, `router@1`, `router@episode-2`.

    Raises:
        UserError: The run lacks the model, or the name is unknown.
    """
    base, _, way = name.partition("@")
    rules = _rules(config, name, way) if way else config.evaluation
    if base in UNTRAINED:
        info: ModelInfo = {"method": base, "num_parameters": 0, "weights": "", "step": 0}
        return RunModel(UNTRAINED[base](_specs(config)), info)
    if base == NearestPolicy.name:
        store = DatasetStore.open(config.evaluation.prompts or config.data, tasks_of(config))
        loader = config.loader
        known = fingerprint([store.checksum, loader.normalization, loader.std_floor])
        info = {"method": base, "num_parameters": 0, "weights": known, "step": 0}
        return RunModel(NearestPolicy(store.tasks, loader, _specs(config)), info)
    if base in RULES:
        return _experts(config, base)
    if not base and config.method in BASELINES:
        base = f"baseline:{config.method}"
    kind, _, number = base.partition(":")
    if not number and kind in ("", "router") and _by_prompt(config, kind):
        kind, number = "router", router_of(newest_generation(Registry(config.run)))
    elif kind == "router" and not number and Registry(config.run).has("router", MAIN):
        number = MAIN
    if kind not in ("", *ACTING_KINDS):
        untrained = (*UNTRAINED, NearestPolicy.name)
        choices = ", ".join((*untrained, "backbone, router", *RULES, "expert:K, baseline:METHOD"))
        raise UserError(f"--models {name}: choose among {choices}")
    agent = load_run(config.run, kind or None, number or None, inference_device(config))
    entry = agent.entry
    label = entry.kind if entry.name == MAIN else f"{entry.kind}:{entry.name}"
    info = {
        "method": agent.method,
        "num_parameters": agent.model.num_parameters(),
        "weights": entry.hash,
        "step": entry.step,
    }
    label = _labelled(label, way_of(agent, rules), rules)
    return RunModel(AgentPolicy(agent, rules, label, tasks=tasks_of(config)), info)


def _specs(config: Config) -> dict[str, TaskSpec]:
    """Return the tasks whose score follows from data, with their scores.

    The data are those that the run was trained on, or else those that it would be.

    Raises:
        UserError: There are such tasks, but no data.
    """
    names = [task for task in tasks_of(config) if get_task(task).score is None]
    context = context_of_run(config.run) if names else TaskContext.empty()
    known = {name: context.spec(name) for name in names if name in context.tasks}
    names = [name for name in names if name not in known]
    folder = config.evaluation.prompts or config.data
    stores = DatasetStore.open(folder, names).tasks if names else ()
    return {**known, **{store.spec.name: store.spec for store in stores}}


def _by_prompt(config: Config, kind: str) -> bool:
    """Tell whether a router without a name is the one by prompts.

    It is where `moe.router` says so, unless the run has none, but has what may stand in for it.
    """
    if config.moe.router != "prompt":
        return False
    registry = Registry(config.run)
    trained = registry.find("router", BY_PROMPT) is not None
    return trained or (kind == "router" and registry.find("router", MAIN) is None)


def _rules(config: Config, name: str, way: str) -> EvaluationConfig:
    """Return the rules of evaluation with a way to choose experts, such as `episode-2`."""
    found = WAY.fullmatch(way)
    if not found:
        examples = "router@episode, router@1, router@episode-2"
        raise UserError(f"--models {name}: after @ comes a way to choose experts: {examples}")
    gates, experts = found.groups()
    return replace(config.evaluation, gates=gates or "auto", experts=experts or "auto")


def _labelled(name: str, way: str, rules: EvaluationConfig) -> str:
    """Add to a name how experts are chosen, and which prompts and target replace its own."""
    words = [way] if way else []
    words += [f"prompts-{rules.prompt_return:g}"] if rules.prompts else []
    words += [f"target-{rules.target_scale}"] if rules.target_scale != 1 else []
    return "@".join([name, "-".join(words)]) if words else name


def _experts(config: Config, rule: str) -> RunModel:
    device, tasks = inference_device(config), tasks_of(config)
    policy = ExpertsPolicy(config.run, config.evaluation, device, rule, tasks)
    for task in tasks:
        policy.check(task)  # refuses a task without expert before any simulator starts
    policy.name = _labelled(rule, "", config.evaluation)
    info: ModelInfo = {
        "method": rule,
        "num_parameters": policy.num_parameters(),
        "weights": [expert.hash for expert in policy.experts],
        "step": policy.experts[0].step,
    }
    return RunModel(policy, info)
