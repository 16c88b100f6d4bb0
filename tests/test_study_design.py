"""What a study compares is read from its own file, and its results by that."""

import pytest

from m3dt.study import FIGURES, Results, claims
from m3dt.study.claims.claim import HOLDS
from m3dt.study.design import design_of
from m3dt.utils.errors import UserError

OWN = """
conf: quickstart
set: [model.n_embd=48, "suite_seed={seed}", "tasks=[reach-v2, push-v2, walker-walk]"]
parts:
  baselines: {grid: {seed: [0, 1], method: [promptdt]}}
  m3dt: {grid: {seed: [0, 1], method: [m3dt-gradient]}}
"""


@pytest.fixture
def own_study(tmp_path, monkeypatch):
    """A study in the working folder, known by its name."""
    design_of.cache_clear()
    (tmp_path / "conf/study").mkdir(parents=True)
    (tmp_path / "conf/study/own.yaml").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    design_of.cache_clear()


def test_the_reduced_study():
    design = design_of("lite")
    assert design.task_counts == (10, 40, 160) and design.medium == 40
    assert design.base.model.n_embd == 64
    assert design_of("a table of another name") is design


def test_a_study_of_its_own(own_study):
    design = design_of("own")
    assert design.task_counts == (3,) and design.medium == 3
    assert design.base.model.n_embd == 48
    assert design_of("lite").base.model.n_embd == 64


def test_a_broken_study_is_named(own_study):
    (own_study / "conf/study/own.yaml").write_text("parts: [unclosed\n")
    with pytest.raises(UserError, match=r"own\.yaml: not valid YAML"):
        design_of("own")


def test_results_without_suites_have_the_tasks_of_the_base(own_study):
    header = "part,seed,method,score,backbone,parameters,cell\n"
    rows = [
        f"{part},{seed},{method},{score + seed / 10},{score - 5},10,{method}{seed}\n"
        for part, method, score in (("baselines", "promptdt", 40), ("m3dt", "m3dt-gradient", 50))
        for seed in (0, 1)
    ]
    (own_study / "own.csv").write_text(header + "".join(rows))
    results = Results.read(own_study / "own.csv")
    found = {claim.name: claim for claim in claims(results)}
    assert found["equal steps"].verdict == HOLDS and "tasks" not in found
    assert found["m3dt-gradient 3"].result.startswith(
        "10.0 [10.0, 10.0] points over Prompt-DT (t test"
    )
    assert list(results.task_counts) == [3]
    assert FIGURES["tasks"].draw(results) is None  # one place compares nothing
