"""What a user did wrong is one line on stderr and exit code 2."""

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import asdict

import pytest
from conftest import write_dataset
from quick_run import QUICK, STEPS, TASKS, call

from m3dt.cli import main
from m3dt.cli.parser import make_parser
from m3dt.data.format import DatasetIndex
from m3dt.runs import Entry, Registry


@pytest.fixture
def error_of(capsys):
    """Run a command that must fail with exit code 2, and return its one message."""

    def run(*arguments):
        assert main([str(a) for a in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("m3dt: ") and captured.err.count("\n") == 1
        assert "Traceback" not in captured.err + captured.out
        return captured.err

    return run


def test_later_stages_refuse_another_backbone_or_data(error_of, finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    other = shutil.copytree(data, tmp_path / "data")
    index = DatasetIndex.read(other)
    entry = index.tasks["reach-v2"]
    index.tasks["reach-v2"] = type(entry)(**{**vars(entry), "sha256": "0"})
    index.write(other)
    assert "other settings: data" in error_of("stage2", *QUICK, f"data={other}", f"run={run}")
    changed = error_of("stage3", *QUICK, f"data={data}", f"run={run}", "loader.std_floor=0.5")
    assert "loader.std_floor was 0.01, is 0.5" in changed
    shutil.rmtree(run / "registry" / "backbone")
    assert call("stage1", run, data, "stage1.max_steps=4") == 0
    message = error_of("stage2", *QUICK, f"data={data}", f"run={run}", "stage1.max_steps=4")
    assert "trained on another backbone/main" in message


@pytest.mark.parametrize("command", ["stage3", "extend"])
def test_the_whole_lineage_is_checked(error_of, finished, data, tmp_path, command):
    """Groups of another backbone may divide the tasks alike; the experts name no wrong parent."""
    run = shutil.copytree(finished, tmp_path / "run")
    words = [*QUICK, f"data={data}", f"run={run}"]
    if command == "extend":
        assert main(["stage3", *words, "moe.router=prompt"]) == 0
        new = write_dataset(tmp_path / "new", ["push-v2"])
        words = ["--run", run, "--tasks", "push-v2", f"data={new}"]
    else:
        shutil.rmtree(run / "registry" / "router")
    path = run / "registry" / "grouping" / "main" / "entry.json"
    entry = Entry(**json.loads(path.read_text()))
    path.write_text(json.dumps(asdict(entry.sealed(parents={"backbone/main": "0" * 64}))))
    assert "grouping/main was trained on another backbone/main" in error_of(command, *words)
    shutil.rmtree(path.parent)
    if command == "extend":  # stage 3 makes the groups again
        message = error_of(command, *words)
        assert "was trained on grouping/main, which is not registered. Copy" in message


def test_a_finished_training_is_not_extended(error_of, finished, data, tmp_path):
    """The message says so at once, and its remedy works."""
    longer = f"stage3.max_steps={STEPS + 4}"
    for more in ([], ["force=true"]):
        message = error_of("stage3", *QUICK, f"data={data}", f"run={finished}", longer, *more)
        assert f"{finished}: router/main was made with other settings" in message
        assert f"stage3.max_steps was {STEPS}, is {STEPS + 4}" in message
        assert "force=true resumes interrupted ones only" in message
        assert f"another run=FOLDER, where reuse={finished} takes what stays the same" in message
    for stage in ("stage1", "stage2", "stage3"):
        assert call(stage, tmp_path / "run", data, longer, f"reuse={finished}") == 0
    old, new = ({e.key: e for e in Registry(run).entries()} for run in (finished, tmp_path / "run"))
    assert {key for key in old if old[key].hash != new[key].hash} == {"router/main"}
    assert new["router/main"].step == STEPS + 4


def test_one_clear_message_each(error_of, finished, data, tmp_path):
    run, folder = f"run={tmp_path / 'run'}", f"data={data}"
    message = error_of("stage2", *QUICK, folder, run)
    assert "has no backbone yet" in message and "m3dt stage1" in message
    assert "stage1.max_steps" in error_of("stage1", "stage1.max_step=3")
    wrong = "override 'stage2.max_steps=0': stage2.max_steps=0 must be 1 or more"
    assert error_of("stage1", "stage2.max_steps=0") == f"m3dt: {wrong}\n"
    assert "nowhere" in error_of("stage1", *QUICK, f"data={tmp_path / 'nowhere'}", run)
    assert "sweep-v2" in error_of("stage1", *QUICK, "tasks=[reach-v2,sweep-v2]", folder, run)
    assert "no trained model" in error_of("evaluate", *QUICK, folder, run)
    assert "other settings" in error_of("stage1", *QUICK, folder, f"run={finished}", "seed=9")
    assert "seed was 0, is 9" in error_of("stage1", *QUICK, folder, f"run={finished}", "seed=9")
    assert "task groups first" in error_of(
        "stage2", *QUICK, folder, f"run={lone_backbone(finished, tmp_path)}", "stage2.shard=0/2"
    )
    wrong = "override 'trainer.precision=foo': trainer.precision=foo: "
    assert wrong in error_of("stage1", *QUICK, folder, run, "trainer.precision=foo")
    refused = error_of("stage1", *QUICK, folder, run, "trainer.devices=[a,b]")
    assert "override 'trainer.devices=[a,b]': trainer.devices=['a', 'b']: " in refused
    assert not list((tmp_path / "run").rglob("settings.json"))  # the right command can follow
    assert "override 'suite=mt161': suite: " in error_of("stage1", "suite=mt161", folder, run)
    assert "more than the 3 tasks" in error_of("stage1", *QUICK, folder, run, "moe.num_experts=4")
    assert "every_n_step'" in error_of("collect", "callbacks.conflict.every_n_step=1")
    shutil.rmtree(tmp_path / "run")
    assert "--models" in error_of("evaluate", *QUICK, run, "--models", "best")
    typo = ("collect.policies=typo", f"data={tmp_path}/d")
    assert "typo: no folder" in error_of("collect", *QUICK, *typo)
    assert "collect.trajectories=7" in error_of("collect", *QUICK, folder, "collect.trajectories=7")
    assert not (tmp_path / "run").exists() and not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "override",
    [
        "trainer.limit_train_batches=0.5",
        "trainer.precision=16-true",
        "trainer.precision=16-mixed",
        "trainer.precision=transformer-engine",
        "trainer.log_every_n_steps=often",
        "trainer.strategy=ddp_spawn",
    ],
)
def test_arguments_that_a_training_refuses(error_of, data, tmp_path, override, capsys):
    """When Lightning fits, or at the first product; 16-mixed would be bf16-mixed on a CPU."""
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = error_of("stage1", *QUICK, f"data={data}", f"run={tmp_path}", override)
    assert f"override '{override}': " in message and f"{override}: " in message


def test_too_little_memory_is_one_message(data, tmp_path, capsys):
    """The allocators of torch and numpy have errors of their own."""
    command = ["stage1", *QUICK, f"data={data}", f"run={tmp_path}"]
    for size in ("loader.batch_size=100000000000000", "model.max_timesteps=10000000000000"):
        assert main([*command, size]) == 1
        assert capsys.readouterr().err.startswith("m3dt: not enough memory. Choose a smaller")


def test_errors_of_others_are_one_message(monkeypatch, capsys):
    def fail(error):
        def listing(*arguments):
            raise error

        monkeypatch.setattr("m3dt.cli.listings.print_tasks", listing)
        return main(["tasks"]), capsys.readouterr().err

    assert fail(OSError(errno.ENAMETOOLONG, "File name too long", "x")) == (
        2, "m3dt: x: File name too long\n"
    )  # fmt: skip
    assert fail(OSError(errno.ENOLCK, "No locks available")) == (2, "m3dt: No locks available\n")
    code, message = fail(KeyError("who"))
    assert code == 1 and message.startswith("m3dt: unexpected KeyError: 'who' (test_messages.py, ")
    monkeypatch.setenv("M3DT_TRACEBACK", "1")
    with pytest.raises(KeyError):
        fail(KeyError("who"))


def test_a_task_is_listed_once(error_of, data, tmp_path):
    twice = "tasks=[reach-v2,cup-catch,reach-v2]"
    message = error_of("stage1", *QUICK, f"data={data}", f"run={tmp_path}", twice)
    assert message == f"m3dt: override '{twice}': tasks: reach-v2 is listed more than once\n"


def test_names_are_printed_as_they_are(tmp_path, capsys):
    """Brackets are no markup and colons no pictures."""
    folder = write_dataset(tmp_path / "d[bold] :bug: [/red]", TASKS)
    assert main(["verify", str(folder)]) == 0
    assert f"{folder}: 3 tasks" in capsys.readouterr().out


def test_terminals_without_the_letter_get_another(tmp_path):
    """In messages and in errors; ASCII is the encoding of many batch systems."""
    folder = write_dataset(tmp_path / "d\u00e4t", TASKS)
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for path, code in ((folder, 0), (tmp_path / "g\u00f6ne", 2)):
        command = [sys.executable, "-m", "m3dt", "verify", str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == code and path.name.replace(path.name[1], "?") in (
            done.stderr if code else done.stdout
        )
        assert "Traceback" not in done.stderr


def test_lists_may_have_spaces():
    parsed = make_parser().parse_args(["evaluate", "--models", " router, backbone ,"])
    assert parsed.models == ["router", "backbone"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("evaluate --conf mt10 --run x", "Leave out --conf"),
        ("study paper --merge x --where seed=0", "Leave out --where and --shard"),
        ("study paper --merge x --shard 5/2", "Leave out --where and --shard"),
        ("study paper --dry-run --status --minutes 9", "of --dry-run, --status and --minutes.\n"),
    ],
)
def test_options_that_do_not_go_together(error_of, line, said):
    assert said in error_of(*line.split())


@pytest.mark.parametrize(
    ("line", "how"),
    [
        ("behaviour measure nosuch", ""),
        ("evaluate --run quickstart tasks=[nosuch]", " Name it: plugins=[MODULE]."),
        ("import . y --format npz --tasks nosuch", " Name it: --plugins MODULE."),
    ],
)
def test_a_module_is_named_where_the_command_can_import_one(error_of, line, how):
    end = f"once the module that registers it is imported.{how}\n"
    assert error_of(*line.split()).endswith(end)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("compare x --against y --margin nan", "nan must be a finite number"),
        ("bench --rows data --trajectories 2", "2 must be 3 or more"),
    ],
)
def test_numbers_of_options_have_limits(capsys, line, said):
    with pytest.raises(SystemExit, match="2"):
        main(line.split())
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["egle", "glfw"])
def test_what_films_need_is_known_before(error_of, finished, data, tmp_path, monkeypatch, backend):
    """A task that exists, and a back end that works."""
    run = tmp_path / "run"  # without scores that other tests stored
    shutil.copytree(finished / "registry", run / "registry")
    monkeypatch.setattr("m3dt.tasks.rendering.can_render", lambda name: name == "egl")
    command = ["evaluate", *QUICK, f"data={data}", f"run={run}", "--film"]
    assert "unknown task 'cup-cath'. Did you mean 'cup-catch'" in error_of(*command, "cup-cath")
    message = error_of(*command, "walker-walk")
    assert "--film walker-walk: is not evaluated." in message and " tasks=[walker-walk]." in message
    monkeypatch.setenv("MUJOCO_GL", backend)
    message = error_of(*command, "cup-catch")
    assert f"--film cup-catch: MUJOCO_GL={backend} " in message
    if backend == "egle":  # no simulator would start
        assert "Did you mean 'egl'?" in error_of(*command[:-1])
    assert not (run / "evaluation").exists()


def lone_backbone(finished, tmp_path):
    run = tmp_path / "lone"
    shutil.copytree(finished / "registry" / "backbone", run / "registry" / "backbone")
    return run


def test_truncated_data_is_one_message(error_of, tmp_path):
    folder = write_dataset(tmp_path / "data", TASKS)
    path = folder / "cup-catch.hdf5"
    path.write_bytes(path.read_bytes()[:3000])
    message = error_of("stage1", *QUICK, f"data={folder}", f"run={tmp_path / 'run'}")
    assert "cup-catch.hdf5" in message and "Delete it and import its dataset again" in message
    assert "1 problem," in error_of("verify", folder)


def test_checksums_of_the_data_are_compared_on_demand(error_of, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    content = bytearray((folder / "cup-catch.hdf5").read_bytes())
    content[-100] ^= 1
    (folder / "cup-catch.hdf5").write_bytes(content)
    run = f"run={tmp_path / 'run'}"
    message = error_of("stage1", *QUICK, f"data={folder}", run, "check_data=true")
    assert "cup-catch.hdf5: not as the dataset's checksums say" in message
    assert "collect.trajectories=6 collect.seed=0`" in message
    assert "reach-v2" not in message and not (tmp_path / "run").exists()
    few = "stage1.max_steps=2"
    assert call("stage1", tmp_path / "run", data, "check_data=true", few) == 0


@pytest.mark.parametrize("file", ["config.yaml", "notes.txt", "src/main.py"])
def test_a_folder_of_another_project_is_left_alone(error_of, data, tmp_path, file):
    run = tmp_path / "theirs"
    (run / "checkpoints" / "stage1").mkdir(parents=True)
    (run / file).parent.mkdir(exist_ok=True)
    (run / file).write_text("model: {name: theirs}\n")
    weights = run / "checkpoints" / "stage1" / "step7.ckpt"
    weights.write_text("theirs")
    before = sorted(run.rglob("*"))
    message = error_of("stage1", *QUICK, f"data={data}", f"run={run}")
    assert f"holds {file.split('/')[0]}, which is not from a run of m3dt" in message
    command = ("evaluate", *QUICK, f"data={data}", f"run={run}", "--models", "random")
    assert "which is not from a run of m3dt" in error_of(*command)
    assert sorted(run.rglob("*")) == before and weights.read_text() == "theirs"


def test_missing_experts_are_named(error_of, finished, data, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "registry" / "expert" / "1")
    shutil.rmtree(run / "registry" / "router")
    message = error_of("stage3", *QUICK, f"data={data}", f"run={run}")
    assert "lacks 1 of 2 experts: 1" in message


def test_a_deleted_working_directory_is_told(error_of, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    message = error_of("tasks")
    monkeypatch.chdir(tmp_path)
    assert "the working directory cannot be read (No such file or directory)" in message


@pytest.mark.parametrize("words", [["tasks", "mt10"], ["registry", "nowhere"]])
def test_an_output_that_cannot_be_written_is_one_message(words):
    """A full disk, and a reader that has gone; Python itself does not fail a second time."""
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, open(writer, "w") as unread:
        for out, code, told in ((full, 2, "No space left"), (unread, 1, "was closed before")):
            command = [sys.executable, "-m", "m3dt", *words]
            done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
            known = words[0] != "registry"  # which fails before it prints
            assert done.returncode == (code if known else 2)
            assert done.stderr.startswith("m3dt: ") and done.stderr.count("\n") == 1
            assert told in done.stderr or not known


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"])
@pytest.mark.parametrize("value", ["", "bash", "1.0"])
def test_a_rank_that_is_none_is_named(error_of, monkeypatch, name, value):
    """Lightning's import would fail on it."""
    monkeypatch.setenv(name, value)
    assert f"{name} is '{value}' in the environment" in error_of("tasks")
    monkeypatch.setenv(name, "1")
    assert main(["tasks", "mt10"]) == 0


def test_closed_streams_are_none_of_the_data(tmp_path):
    """No file that is opened takes the number of one, and so no word is printed into it."""
    folder, report = write_dataset(tmp_path / "data", TASKS), tmp_path / "report.json"
    command = [sys.executable, "-m", "m3dt", "verify", str(folder), "--json", str(report)]
    before = [path.read_bytes() for path in sorted(folder.iterdir())]
    closed = 'exec 0<&- 1>&- 2>&-; exec "$@"'
    assert subprocess.run(["bash", "-c", closed, "bash", *command]).returncode == 0
    assert json.loads(report.read_text())["tasks"] == len(TASKS)
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == before
