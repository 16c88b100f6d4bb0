"""The list of all keys of the schema."""

from m3dt.config import all_keys, section_meanings


def test_every_key_has_a_meaning():
    assert [key.dotted for key in all_keys() if not key.meaning.endswith(".")] == []
    assert all(section_meanings().values())


def test_keys_state_type_default_and_allowed_values():
    keys = {key.dotted: key for key in all_keys()}
    steps = keys["stage2.max_steps"]  # inherited and overridden
    assert (steps.type, steps.default, steps.allowed) == ("int", 200_000, "1 or more")
    assert keys["model.dropout"].allowed == "0 or more and less than 1"
    assert keys["stage1.decay"].allowed == "none, cosine, cooldown"
    assert keys["baseline.max_steps"].default == 1_000_000
    assert keys["tasks"].type == "list[str]"
