"""What settings declare: ranges, choices, types, and whether weights depend on them."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest

from m3dt.config import (
    Config,
    EvaluationConfig,
    ModelConfig,
    load_config,
    save_config,
    weight_settings,
)
from m3dt.config.fields import Choices, Range, Section, choice, number, settings_of

SECTIONS = {"": Config()} | {
    name: getattr(Config(), name)
    for name in settings_of(Config())
    if isinstance(getattr(Config(), name), Section)
}


@pytest.mark.parametrize("name", SECTIONS)
def test_every_field_declares_its_values(name):
    """A number has a range, and text is one of a few words unless it is listed here."""
    free = {"conf", "run", "data", "reuse", "suite", "policies", "shard", "prompts", "class_path"}
    free |= {"init_from"}
    for key, declared in settings_of(SECTIONS[name]).items():
        rule, default = declared.metadata.get("rule"), getattr(SECTIONS[name], key)
        if type(default) in (int, float):
            assert isinstance(rule, Range), f"{name}.{key} has no range"
            assert {rule.low, rule.above} != {None}, f"{name}.{key} has no lower limit"
            assert declared.type is type(default)  # it tells whole numbers from others
        elif isinstance(default, str):
            assert isinstance(rule, Choices) != (key in free), f"{name}.{key} has no choices"


@pytest.mark.parametrize(
    ("limits", "taken", "refused"),
    [
        ({"low": 1}, [1, 1.5, 2**63 - 1], [2**63, 10**400, 0.99, -1, math.inf, math.nan]),
        ({"above": 0}, [1e-300], [0, -1, math.inf, math.nan]),
        ({"low": 0, "below": 1}, [0, 0.5], [1, -0.1, math.nan, -math.inf]),
        ({"above": -1, "high": 2}, [2, 0], [-1, 2.1, math.inf]),
        ({"low": 0, "high": math.inf}, [0, math.inf], [-1, math.nan, -math.inf]),
    ],
)
def test_ranges(limits, taken, refused):
    @dataclasses.dataclass
    class Own(Section):
        size: float = number(1.0, **limits)

    assert [Own(value).size for value in taken] == taken
    for value in refused:
        with pytest.raises(ValueError, match=rf"^size={value} must be "):
            Own(value)


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("episodes", 2.5, "a whole number"),
        ("episodes", "2", "a whole number"),
        ("episodes", True, "a whole number"),
        ("target_scale", "1", "a number"),
        ("target", 1, "text"),
    ],
)
def test_code_is_told_of_a_value_of_another_type(setting, value, wanted):
    with pytest.raises(ValueError, match=rf"^{setting}={value} must be {wanted}"):
        EvaluationConfig(**{setting: value})


def test_numbers_of_numpy_are_taken_as_numbers(tmp_path):
    rules = EvaluationConfig(episodes=np.int64(2), target_scale=np.float32(0.5))
    assert (type(rules.episodes), type(rules.target_scale)) == (int, float)
    save_config(replace(load_config("mt10"), evaluation=rules), tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml").evaluation == rules
    assert type(ModelConfig(condition_on_return=np.False_).condition_on_return) is bool
    with pytest.raises(ValueError, match=r"^target_scale=inf must be a finite number"):
        EvaluationConfig(target_scale=np.float32("inf"))


def test_choices():
    @dataclasses.dataclass
    class Own(Section):
        kind: str = choice("paper", ("paper", "official"))

    assert Own("official").kind == "official"
    with pytest.raises(ValueError, match=r"^kind=offical is not one of paper, official\. .*'offi"):
        Own("offical")


def test_settings_that_cannot_change_weights():
    """Everything else is part of the fingerprints by which a run recognises its models."""
    stage = {"checkpoint_every", "checkpoint_minutes", "keep_every", "max_bad_steps"}
    free = {
        "model": set(), "loader": {"num_workers", "resident"}, "grouping": {"memory_gb"},
        "moe": set(),
        "harmodt": set(), "stage1": stage, "stage2": stage | {"shard"}, "stage3": stage,
        "baseline": stage, "prompt_router": stage, "compute": {"steps_per_call", "graph"},
    }  # fmt: skip
    for name, keys in free.items():
        section = SECTIONS[name]
        everything = dataclasses.asdict(section)
        assert keys <= everything.keys()
        kept = {key: value for key, value in everything.items() if key not in keys}
        assert weight_settings(section) == kept
