"""Minari datasets, written and read back."""

import numpy as np
import pytest
from imports import OFFICIAL_TASKS, import_from

from m3dt.cli import main
from m3dt.data import DatasetStore
from m3dt.data.format import DatasetIndex
from m3dt.utils.errors import UserError


def test_minari_round_trip(official, tmp_path, capsys):
    pytest.importorskip("minari")
    root = tmp_path / "minari"
    assert main(["export", str(official), str(root)]) == 0
    for task in OFFICIAL_TASKS:
        source = root / "m3dt" / f"{task.removesuffix('-v2')}-v0"
        import_from(source, tmp_path / "data", "minari", task)
        one, other = (
            DatasetStore.open(folder, [task]).tasks[0] for folder in (official, tmp_path / "data")
        )
        index = DatasetIndex.read(tmp_path / "data")
        assert index.tasks[task].success_rate is None  # not recorded
        for name in ("observations", "actions", "rewards", "episode_ends"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert main(["export", str(official), str(root)]) == 2
    assert "holds reach-v2" in capsys.readouterr().err
    with pytest.raises(UserError, match="name it with --tasks"):
        import_from(root / "m3dt" / "reach-v0", tmp_path / "other", "minari")
    with pytest.raises(UserError, match="no Minari dataset"):
        import_from(root, tmp_path / "other", "minari", "reach-v2")
