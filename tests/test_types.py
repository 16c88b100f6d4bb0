"""What a type checker knows of the installed package, in a project of its own."""

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"
SCRIPT = """\
import m3dt

agent = m3dt.load("runs/quickstart")
reveal_type(agent)
result = m3dt.evaluate(agent, tasks=["reach-v2"], episodes=1)
reveal_type(result["score"])
reveal_type(result["tasks"]["reach-v2"]["ci95"])
known: tuple[m3dt.Agent, m3dt.EvaluationResult] = (agent, result)
result["scores"]
m3dt.lode("runs/quickstart")
m3dt.evaluate(agent, episodes="10")
actor: m3dt.Actor = agent.actor("reach-v2", seed=0)
reveal_type(actor.seeds)
agent.actor(prompt="reach-v2")
"""
EXPECTED = {
    4: 'note: Revealed type is "m3dt.evaluation.agent.Agent"',
    6: 'note: Revealed type is "float"',
    7: 'note: Revealed type is "list[float] | None"',
    9: 'error: TypedDict "EvaluationResult" has no key "scores"',
    10: 'error: Module has no attribute "lode"',
    11: 'error: Argument "episodes" to "evaluate" has incompatible type "str"; expected "int |',
    13: 'note: Revealed type is "list[int]"',
    14: 'error: Argument "prompt" to "actor" of "Agent" has incompatible type "str"',
}
# Other packages' types are of no matter here, and take most of the time to read.
CONFIGURATION = """\
[mypy]
[mypy-torch.*,torchmetrics.*,lightning.*,numpy.*,rich.*,matplotlib.*,tensorboard.*]
follow_imports = skip
[mypy-gymnasium.*,sklearn.*,h5py.*,mujoco.*,dm_control.*,metaworld.*,lxml.*]
ignore_missing_imports = True
"""


def test_load_and_evaluate_have_types(tmp_path):
    """The package is found on `sys.path`, where an editable installation puts it."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "mypy.ini").write_text(CONFIGURATION)
    environment = {k: v for k, v in os.environ.items() if k != "MYPYPATH"}
    environment["PYTHONPATH"] = str(SOURCE)
    command = [sys.executable, "-m", "mypy", "--hide-error-codes", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    found = {}
    for line in done.stdout.splitlines()[:-1]:
        file, number, message = line.split(":", 2)
        assert file == "script.py", line
        found.setdefault(int(number), message.strip())  # the first of a line; hints follow
    assert found.keys() == EXPECTED.keys(), done.stdout + done.stderr
    for number, message in EXPECTED.items():
        assert found[number].startswith(message)
