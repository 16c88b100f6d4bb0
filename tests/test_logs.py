"""What is logged and shown: TensorBoard's layout, groups, scores and films; the progress bar."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from quick_run import call
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_stages import FAST, data_for, fresh_model, train

from m3dt.callbacks import ProgressCallback, RolloutCallback, progress
from m3dt.evaluation import RandomPolicy, animation, film, video
from m3dt.plots import tensorboard as logs
from m3dt.stages import BackboneStage, ExpertStage

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


def test_the_layout_names_what_is_logged(evaluated):
    """Every chart of the custom scalars page has a tag that training or evaluation writes."""
    tags = [t for page in logs.LAYOUT.values() for chart in page.values() for t in chart[1]]
    assert set(tags) <= LOGGED
    written = {
        tag
        for folder in ("stage1", "stage2", "stage3", "evaluation/backbone", "evaluation/router")
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


def test_hyperparameters_and_scores_of_each_model(evaluated):
    for name in ("backbone", "router"):
        scores = events(evaluated / "evaluation" / name)
        final = events(evaluated / "hparams" / name)
        assert final.Tags()["scalars"][0] == "final/eval/score"
        score = scores.Scalars("eval/score")[0].value
        assert final.Scalars("final/eval/score")[0].value == score


def test_agreement_is_drawn_by_group(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(logs, "heat_map", lambda values, **given: drawn.update(given, v=values))
    monkeypatch.setattr(logs.SummaryWriter, "add_figure", lambda *arguments: None)
    vectors = np.array([[1.0, 0], [0, 2], [3, 0]])
    logs.write_groups(tmp_path, vectors @ vectors.T, [[0, 2], [1]], ["a", "b", "c"])
    np.testing.assert_allclose(drawn["v"], [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert (drawn["rows"], drawn["columns"]) == (["a", "c", "b"], ["0", "0", "1"])
    assert drawn["borders"] == [2]


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
    trainer = SimpleNamespace(is_global_zero=True, max_steps=100, global_step=0, logger=logger)
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
