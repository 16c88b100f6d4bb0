"""What is logged and shown: TensorBoard's layout, groups, scores and films; the progress bar."""

import io
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from moments import MOMENTS
from PIL import Image
from quick_run import QUICK, call, signal_at
from started import ended
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter
from test_stages import FAST, data_for, fresh_model, train

from m3dt.callbacks import ProgressCallback, RolloutCallback, progress
from m3dt.evaluation import RandomPolicy, animation, film, video
from m3dt.plots import tensorboard as logs
from m3dt.runs import Registry
from m3dt.runs.evaluations import evaluation_file, evaluations, newest
from m3dt.stages import BackboneStage, ExpertStage
from m3dt.tasks import DOMAINS
from m3dt.tasks.experiment import load_experiment
from m3dt.training.loggers import build_loggers

LOGGED = {
    "train/loss", "train/gradient_norm", "conflict/mean", "conflict/smoothed", "conflict/attention",
    "conflict/mlp", "similarity/to_mean", "similarity/leave_one_out", "similarity/independent",
    "conflict/experts_grouped", "conflict/experts_all", "similarity/experts_grouped",
    "similarity/experts_all", "router/entropy", "router/load_max", "eval/score",
    *(f"eval/{domain}/score" for domain in ("metaworld", "dmcontrol", "cheetah-vel", "ant-dir")),
}  # fmt: skip


def events(folder):
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


@pytest.fixture(scope="module")
def evaluated(finished, data):
    assert call("evaluate", finished, data, "--models", "backbone,router") == 0
    return finished / "logs"


@pytest.fixture(scope="module")
def pages(evaluated):
    """The TensorBoard page of each model's newest evaluation, by the model's name."""
    found = newest(evaluations(evaluated.parent)[0])
    return {name: evaluation_file(Path(), name, one.key).stem for name, one in found.items()}


def test_the_layout_names_what_is_logged(evaluated, pages):
    """Every chart of the custom scalars page has a tag that training or evaluation writes."""
    tags = [
        t for page in logs.layout(DOMAINS).values() for chart in page.values() for t in chart[1]
    ]
    assert set(tags) <= LOGGED
    scores = [f"evaluation/{pages[name]}" for name in ("backbone", "router")]
    written = {
        tag
        for folder in ("stage1", "stage2", "stage3", *scores)
        for tag in events(evaluated / folder).Tags()["scalars"]
    }
    assert set(tags) - written == {"eval/cheetah-vel/score"}  # a domain that the run lacks
    assert "custom_scalars__config__" in events(evaluated / "layout").Tags()["tensors"]


def test_pictures_of_a_run(evaluated):
    images = set(events(evaluated / "stage1").Tags()["images"])
    assert {"conflict/curve", "conflict/per_task"} <= images
    assert "router/usage" in events(evaluated / "stage3").Tags()["images"]
    grouping = events(evaluated / "grouping").Tags()
    assert grouping["images"] == ["grouping/agreement"]
    assert "grouping/groups/text_summary" in grouping["tensors"]


def test_hyperparameters_and_scores_of_each_model(evaluated, pages):
    for name in ("backbone", "router"):
        scores = events(evaluated / "evaluation" / pages[name])
        final = events(evaluated / "hparams" / pages[name])
        assert final.Tags()["scalars"][0] == "final/eval/score"
        score = scores.Scalars("eval/score")[0].value
        assert final.Scalars("final/eval/score")[0].value == score


def test_agreement_is_drawn_by_group_and_distance(tmp_path, monkeypatch):
    """Groups follow their nearest neighbours, tasks their centre; colours are centred on 0."""
    drawn = {}
    monkeypatch.setattr(logs.SummaryWriter, "add_figure", lambda _, tag, f: drawn.update({tag: f}))
    vectors = np.array([[1.0, 0], [0, 9], [3, 0], [1.5, 0], [0, 1]])
    gram, groups = vectors @ vectors.T, [[0, 2, 3], [1], [4]]
    logs.write_groups(tmp_path, gram, groups, "abcde")
    left, right = drawn["grouping/agreement"].axes[:2]
    assert [label.get_text() for label in left.get_yticklabels()] == list("daceb")
    cosines = np.kron([[1, 0], [0, 1]], np.ones((3, 3)))[:5, :5]
    np.testing.assert_allclose(left.images[0].get_array(), cosines)
    assert left.images[0].norm.vcenter == 0 and left.images[0].norm.halfrange == 1
    points = vectors[[3, 0, 2, 4, 1]]
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    np.testing.assert_allclose(right.images[0].get_array(), distances / distances.max())
    assert [line.get_ydata()[0] for line in left.lines[::2]] == [2.5, 3.5]


def test_hyperparameters_begin_with_the_model_and_its_own_method(tmp_path):
    """TensorBoard sorts the columns by name."""
    result = {"method": "PromptDT", "score": 1.0, "domains": {}, "tasks": {}}
    settings = {"method": "m3dt-random", "a": 1}
    logs.write_hyperparameters(tmp_path, "backbone.0a", "backbone", settings, result)
    folder = tmp_path / "logs/hparams/backbone.0a"
    contents = events(folder).PluginTagToContent("hparams")
    (plugin,) = [data for tag, data in contents.items() if tag.endswith("session_start_info")]
    found = HParamsPluginData.FromString(plugin).session_start_info.hparams
    values = {key: value.string_value for key, value in sorted(found.items())}
    assert list(values) == ["1 model", "2 method", "a"]
    assert (values["1 model"], values["2 method"]) == ("backbone", "PromptDT")


def test_the_layout_has_domains_of_own_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "domains_of", lambda tasks: list(tasks))
    for tasks in (["ant-dir"], ["ant-dir", "swimming"]):
        logs.write_layout(tmp_path, tasks)
        (tmp_path / "logs/layout/domains.json").write_text("[")  # cut off by a kill
        logs.write_layout(tmp_path, tasks)
        found = events(tmp_path / "logs/layout").Tensors("custom_scalars__config__")
        shown = b"eval/swimming/score" in found[0].tensor_proto.string_val[0]
        assert len(found) == 1 and shown == ("swimming" in tasks)


def test_an_extension_by_other_domains_leaves_those_of_the_run_in_the_layout(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "domains_of", lambda tasks: list(tasks))
    for tasks in (["swimming"], ["flying"], ["swimming"]):
        logs.write_layout(tmp_path, tasks)
    (found,) = events(tmp_path / "logs/layout").Tensors("custom_scalars__config__")
    assert all(
        f"eval/{d}/score".encode() in found.tensor_proto.string_val[0]
        for d in ("ant-dir", "swimming", "flying")
    )


class FakeEnv:
    """An episode of two steps; the brightness of a frame shows its step."""

    def reset(self, seed):
        self.t = 0
        return np.zeros(39, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(39, np.float32), 1.0, False, self.t == 2, {}

    def render(self):
        return np.full((4, 6, 3), 50 * self.t, np.uint8)

    def close(self):
        self.closed = True


def test_a_film_is_an_episode(monkeypatch):
    env = FakeEnv()
    monkeypatch.setattr(video, "make_env", lambda task: env)
    frames = film(RandomPolicy(), "reach-v2")
    assert frames.shape == (3, 4, 6, 3) and env.closed
    assert film(RandomPolicy(), "reach-v2", max_frames=2).shape[0] == 2
    moving = Image.open(io.BytesIO(animation(frames)))
    assert moving.n_frames == 3 and moving.size == (6, 4)


def test_films_need_rendering(finished, data, capsys):
    assert call("evaluate", finished, data, "--models", "random", "--film", "reach-v2") == 2
    assert "MUJOCO_GL" in capsys.readouterr().err


def test_progress_shows_the_mean_loss_since_the_last_update(monkeypatch, capsys):
    """Updates after 10 and 20 seconds, of 5 and 2 steps; the steps before them count no more."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    logged = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.append((step, metrics)))
    trainer = SimpleNamespace(is_global_zero=True, max_steps=100, global_step=0, loggers=[logger])
    callback = ProgressCallback(every_n_seconds=10)
    stage = SimpleNamespace(title="stage 1", device=torch.device("cpu"))
    callback.on_train_start(trainer, stage)
    for clock[0], loss in ((2, 1.0), (4, 2.0), (6, 3.0), (8, 4.0), (10, 5.0), (15, 7.0), (20, 8.0)):
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, stage, {"losses": torch.tensor([loss])})
    callback.on_train_end(trainer, stage)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "  stage 1: step 5 of 100, 0.5 steps/s, loss 3.0000, 190 s left"
    assert second == "  stage 1: step 7 of 100, 0.2 steps/s, loss 7.5000, 465 s left"
    assert logged == [(5, {"time/steps_per_second": 0.5}), (7, {"time/steps_per_second": 0.2})]


def test_rollouts_score_and_change_nothing(synthetic):
    results = []
    rollouts = RolloutCallback(every_n_steps=2, tasks=["ant-dir-3"], workers=1)
    for callbacks in ([], [rollouts]):
        stage = BackboneStage(fresh_model(), FAST, 0)
        train(stage, data_for(synthetic, 1), steps=5, callbacks=callbacks)
        results.append(stage.model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert [record["step"] for record in rollouts.history] == [2, 4]
    assert rollouts.metrics()["rollouts"][0]["domains"].keys() == {"ant-dir"}
    again = RolloutCallback()
    again.load_state_dict(rollouts.state_dict())
    assert again.history == rollouts.history
    experts = RolloutCallback(every_n_steps=1)
    stage = ExpertStage(fresh_model(2), FAST, 0, [0, 1])
    train(stage, data_for(synthetic, 2), steps=1, callbacks=[experts])
    assert experts.metrics() == {}


WATCHED = (
    "callbacks.conflict.every_n_steps=5", "callbacks.router_usage.every_n_steps=15",
    MOMENTS,
    *(f"stage{i}.max_steps=40" for i in (1, 3)),
)  # fmt: skip


def records(folder):
    """Return all scalars and images of a log, by tag and in order."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    tags = found.Tags()
    values = {t: [(e.step, e.value) for e in found.Scalars(t)] for t in tags["scalars"]}
    values |= {
        t: [(e.step, e.encoded_image_string) for e in found.Images(t)] for t in tags["images"]
    }
    return {tag: v for tag, v in values.items() if not tag.startswith("time/")}


def new_run(finished, folder, stage):
    """Return a run that has the models which a stage builds on."""
    for kind in ("backbone", "grouping", "expert") if stage == "stage3" else ():
        shutil.copytree(finished / "registry" / kind, folder / "registry" / kind)
    return folder


def before_registering(monkeypatch, action):
    save = Registry.save
    monkeypatch.setattr(Registry, "save", lambda *given, **more: action() or save(*given, **more))


def slowly(write):
    return lambda *given: (time.sleep(0.02), write(*given))


EXPECTED_STEPS = {"stage1": ("conflict/mean", [*range(0, 41, 5)]),
                  "stage3": ("router/entropy", [0, 15, 30, 40])}  # fmt: skip


@pytest.mark.parametrize("stage", EXPECTED_STEPS)
def test_a_kill_neither_loses_nor_repeats_records(
    finished, data, tmp_path, monkeypatch, moments, stage
):
    """A copy of the folder at some moment is what a kill at this moment leaves behind.

    The disk is slow, so that records wait to be written for a while.
    """
    run = new_run(finished, tmp_path / "whole", stage)
    copies = []

    def copy(trainer=None):
        copies.append(shutil.copytree(run, tmp_path / f"copy{len(copies)}"))

    # After records at 15 and at a checkpoint's step, after a checkpoint, between, at the end.
    for moment in (("end", 3), ("end", 15), ("end", 30), ("start", 30), ("start", 37)):
        moments[moment] = copy
    moments["train end", 40] = copy
    with monkeypatch.context() as patch:
        before_registering(patch, copy)
        patch.setattr(RecordWriter, "write", slowly(RecordWriter.write))
        assert call(stage, run, data, *WATCHED) == 0
    moments.clear()
    expected = records(run / "logs" / stage)
    tag, steps = EXPECTED_STEPS[stage]
    assert [step for step, _ in expected[tag]] == steps
    for copied in copies:
        assert call(stage, copied, data, *WATCHED) == 0
        assert records(copied / "logs" / stage) == expected, copied
    assert len(copies) == 7


@pytest.mark.parametrize("stage", EXPECTED_STEPS)
def test_signals_neither_lose_nor_repeat_records(finished, data, tmp_path, moments, stage):
    """One after the other: SIGTERM as a record comes due, between, at the end; and an exception."""
    whole, run = (new_run(finished, tmp_path / name, stage) for name in ("whole", "run"))
    assert call(stage, whole, data, *WATCHED) == 0

    def terminate(trainer):
        moments.clear()
        os.kill(os.getpid(), signal.SIGTERM)

    def interrupt(trainer):
        moments.clear()
        raise KeyboardInterrupt

    for moment in (("start", 14), ("start", 22), ("end", 33), ("start", 39)):
        moments[moment] = terminate
        with pytest.raises(SystemExit, match="143"):
            call(stage, run, data, *WATCHED)
        if moment == ("end", 33):  # before the next checkpoint
            moments["end", 36] = interrupt
            assert call(stage, run, data, *WATCHED) == 130
    assert call(stage, run, data, *WATCHED) == 0
    assert records(run / "logs" / stage) == records(whole / "logs" / stage)


def test_the_last_record_of_a_stopped_training_is_written_once(
    finished, data, tmp_path, monkeypatch, moments
):
    """Another callback stops stage 3 at the step of a checkpoint; kills before it is registered."""
    run = new_run(finished, tmp_path / "whole", "stage3")
    copies = []

    def stop(trainer):
        trainer.should_stop = True

    def copy(trainer=None):
        copies.append(shutil.copytree(run, tmp_path / f"copy{len(copies)}"))

    moments.update({("train start", 20): stop, ("end", 20): stop, ("train end", 20): copy})
    with monkeypatch.context() as patch:
        before_registering(patch, copy)
        assert call("stage3", run, data, *WATCHED) == 0
    del moments["train end", 20]
    expected = records(run / "logs" / "stage3")
    assert [step for step, _ in expected["router/entropy"]] == [0, 15, 20]
    for copied in copies:
        assert call("stage3", copied, data, *WATCHED) == 0
        assert records(copied / "logs" / "stage3") == expected
    assert len(copies) == 2


def test_files_of_events_begin_in_different_seconds(tmp_path):
    """TensorBoard passes over a file whose name comes before that of one that it has read."""
    config = load_experiment("quickstart", [f"run={tmp_path}"])
    folder = tmp_path / "logs" / "stage1"
    folder.mkdir(parents=True)
    now = int(time.time())
    for second in (now - 5, now, now + 1):
        (folder / f"events.out.tfevents.{second}.host.99999.0").touch()
    build_loggers(config, "stage1", 0)
    assert time.time() >= now + 2


def test_kill_9_neither_loses_nor_repeats_records(data, tmp_path):
    """A real one, in the middle of a step whose record still waits to be written."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    words = ["stage1", *QUICK, f"data={data}", f"run={run}", *WATCHED]
    assert ended([*words, signal_at(25, signal.SIGKILL)]).returncode == -signal.SIGKILL
    for folder in (run, whole):
        assert call("stage1", folder, data, *WATCHED) == 0
    assert records(run / "logs" / "stage1") == records(whole / "logs" / "stage1")
