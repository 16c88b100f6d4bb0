"""Overrides and files of configurations: any at all, and those of trainings that take seconds.

Values are drawn from what the sections of `config/` declare, so a new setting is drawn as well.
"""

import json
import math
from pathlib import Path

from hypothesis import strategies as st
from omegaconf import OmegaConf

from fuzz.sound_run import TASKS
from fuzz.values import JSON, mutated
from m3dt.config import METHODS, Config
from m3dt.config.fields import Choices, Section, settings_of

SHIPPED = Path(__file__).parents[2] / "conf" / "quickstart.yaml"

KEYS = st.sampled_from(
    [
        "seed", "suite", "tasks", "method", "size", "compat", "data", "run", "model",
        "model.n_embd", "model.n_head", "model.dropout", "model.residual", "moe.num_experts",
        "moe.top_k", "moe.router", "evaluation.gates", "evaluation.experts", "loader.sampling",
        "loader.batch_size", "stage1.max_steps", "stage2.shard",
        "stage3.decay", "grouping.method", "harmodt.sparsity", "evaluation.tile",
        "trainer.devices", "trainer", "callbacks.conflict", "callbacks.conflict.every_n_steps",
        "callbacks.own.class", "nothing", "model.", ".model", "model..n_embd",
        "stage1.max_steps.x", "",
    ]
)  # fmt: skip
VALUES = st.one_of(
    st.integers(-10, 10**12).map(str),
    st.floats(allow_nan=True, allow_infinity=True).map(str),
    st.sampled_from(
        ["", "null", "true", "[]", "[1, x]", "{a: 1}", "{", "mt10", "harmodt", "large", "official",
         "0/4", "4/4", "one_task", "random", "[reach-v2]", "${seed}", "???", "\\x00", "a=b"]
    ),
    st.text(max_size=12),
)  # fmt: skip

# Whole numbers up to this one keep a training short, and settings that have other limits.
SMALL = 4
LARGEST = {
    "seed": 2**63, "suite_seed": 2**63, "stage1.warmup_steps": 2**63, "stage2.warmup_steps": 2**63,
    "stage3.warmup_steps": 2**63, "baseline.warmup_steps": 2**63, "model.max_timesteps": 2000,
    "model.n_embd": 32, "model.mlp_width": 32, "model.attention_width": 32, "harmodt.max_changed":
    10**6, "loader.num_workers": 1,
}  # fmt: skip
WHOLE = (-1, 0, 1, 2, 3, 4, 8, 16, 30, 1000, 10**6, 2**53 + 1, 2**63 - 1, 2**63)
REAL = (-1e-300, -1.0, 0.0, 1e-300, 1e-12, 0.02, 0.5, 0.999999, 1.0, 3.7, 1e5, 1e38, 1e300)
ODD_REAL = (math.nan, math.inf, -math.inf)
TEXTS = ("x", "", "1", "null", "no.such.Class", "json.JSONDecoder", "m3dt.stages.BackboneStage")
WORDS = {
    "plugins": ("[]", "[json]", "[no_such_module]", "x", "null"),
    "stage2.shard": ("0/1", "0/2", "1/2", "2/2", "x"),
    "tasks": (*(f"[{t}]" for t in TASKS), f"[{TASKS[1]},{TASKS[0]}]", "[]", "[ant-dir-4]"),
    "trainer.precision": ("32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed", "32", "x"),
    "trainer.accelerator": ("cpu", "auto", "gpu", "tpu", "null"),
    "trainer.devices": ("1", "auto", "0", "-1", "[0]", "null", "x"),
    "trainer.deterministic": ("true", "warn", "x"),
    "trainer.detect_anomaly": ("true",),
    "trainer.inference_mode": ("false",),
    "trainer.log_every_n_steps": ("1", "0", "-1", "1000000"),
    "trainer.limit_train_batches": ("1.0", "1", "0", "0.5"),
    "trainer.profiler": ("simple", "x"),
    "trainer.num_nodes": ("1", "0", "2"),
    "trainer.model_registry": ("x",),
    "callbacks.conflict": ("null", "{}", "5"),
    "callbacks.conflict.every_n_steps": ("0", "-1", "1", "3", "1.5", "null"),
    "callbacks.conflict.stages": ("[stage1]", "stage1", "[]", "[stage9]"),
    "callbacks.conflict.patience": ("0", "1", "-1", "x"),
    "callbacks.conflict.probes": ("0", "1", "3", "x"),
    "callbacks.conflict.window": ("0", "1", "-1"),
    "callbacks.conflict.min_steps": ("0", "-5", "3"),
    "callbacks.conflict.significance": (".nan", ".inf", "-1", "0", "1", "x"),
    "callbacks.router_usage.every_n_steps": ("0", "1", "x"),
    "callbacks.progress.class": ("m3dt.callbacks.ProgressCallback", "json.loads", "x", "null"),
}
LEFT_OUT = {"conf", "run", "data", "reuse", "suite", "size", "compute.compile", "stage1.max_steps",
            "stage2.max_steps", "stage3.max_steps", "baseline.max_steps"}  # fmt: skip


def _declared(section, prefix=""):
    """Yield the dotted keys of a section with their declarations and defaults."""
    for name, field in settings_of(section).items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _declared(value, f"{name}.")
        else:
            yield f"{prefix}{name}", (field, value)


DECLARED = {
    key: found
    for key, found in _declared(Config())
    if key not in LEFT_OUT and not key.startswith(("evaluation.", "collect."))
    and not isinstance(found[1], dict)
}  # fmt: skip


def overrides(data):
    """Draw overrides of any kind."""
    pairs = data.draw(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=4))
    return [f"{key}={value}" for key, value in pairs]


def file_content(data):
    """Draw a shipped file with damaged bytes, or with another value somewhere."""
    content = SHIPPED.read_bytes()
    if data.draw(st.booleans()):
        return mutated(data, content)
    values = OmegaConf.to_container(OmegaConf.load(SHIPPED))
    target, name = values, data.draw(st.sampled_from(sorted(values)))
    while isinstance(target[name], dict) and data.draw(st.integers(0, 3)):
        target = target[name]
        name = data.draw(st.sampled_from(sorted(target)))
    target[name] = data.draw(JSON)
    return json.dumps(values).encode()  # which is YAML too


def short_training(data):
    """Draw a command and one to four overrides of a training that takes seconds in any case."""
    command = data.draw(st.sampled_from(["stage1", "stage1", "train"]))
    words = []
    if command == "train":
        words.append(f"method={data.draw(st.sampled_from(sorted(METHODS)))}")
    keys = st.sampled_from([*sorted(DECLARED), *sorted(WORDS)])
    for key in data.draw(st.lists(keys, min_size=1, max_size=4, unique=True)):
        words.append(f"{key}={data.draw(_values(key))}")
    return command, words


def _values(key):
    """Return the strategy of a setting's values: right ones, and wrong ones beyond its range."""
    if key in WORDS:
        return st.sampled_from(WORDS[key])
    field, default = DECLARED[key]
    rule = field.metadata.get("rule")
    if isinstance(rule, Choices):
        return st.sampled_from([*rule.words, f"{rule.words[0]}x", "null"])
    if isinstance(default, bool):
        return st.sampled_from(["true", "false", "maybe", "1"])
    if isinstance(default, float):
        return st.sampled_from(REAL + ODD_REAL)
    if isinstance(default, str):  # mostly a class by its dotted path
        return st.sampled_from(TEXTS)
    limit = LARGEST.get(key, SMALL)
    return st.sampled_from([n for n in WHOLE if n <= limit or rule.problem(n)])
