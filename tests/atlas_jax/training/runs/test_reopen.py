"""A run read from its folder alone: the same model, data and state, nothing written, and what cannot be is said."""

from __future__ import annotations

import json
import shutil

import chex
import jax
import numpy as np
import pytest

from atlas_jax.training import CheckpointError
from atlas_jax.training.runs.execution import execute
from atlas_jax.training.runs.run import last_state, reopen, resolve
from atlas_jax.training.runs.settings import Settings, SettingsError
from atlas_jax.training.runs.text_data import DataError

TEXT = "".join(f"{n} and {n * n} are two numbers of line {n}.\n" for n in range(400))


def settings(folder):
    (folder / "text.txt").write_text(TEXT)
    return Settings(
        model="transformer",
        preset="micro-32",
        data=(folder / "text.txt",),
        config=("d_model=16", "layers=1", "heads=1", "feed_forward=16"),
        tokenizer="bpe",
        vocabulary=280,
        length=16,
        steps=4,
        batch=4,
        rate=1e-2,
        devices=4,
        evaluate_windows=4,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run on four devices, the run and its last state."""
    folder = tmp_path_factory.mktemp("trained")
    run = resolve(settings(folder), folder / "run")
    state = execute(run)
    return folder / "run", run, jax.device_get(state._replace(key=jax.random.key_data(state.key)))


def files(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_folder_is_enough_to_go_on_reading(trained):
    folder, run, state = trained
    before = files(folder)
    again = reopen(folder)
    assert (again.config, again.parameters, again.stages) == (run.config, run.parameters, run.stages)
    assert again.tokens.tokenizer.fingerprint() == run.tokens.tokenizer.fingerprint()
    np.testing.assert_array_equal(again.tokens.train.spread(5), run.tokens.train.spread(5))
    np.testing.assert_array_equal(again.tokens.held_out.spread(5), run.tokens.held_out.spread(5))
    assert (run.mesh.size, again.mesh.size) == (4, 1), "to read one device is enough"
    found = last_state(again)
    chex.assert_trees_all_equal(jax.device_get(found._replace(key=jax.random.key_data(found.key))), state)
    assert files(folder) == before, "reading has written"


def test_it_reads_where_the_disk_is_full(trained, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: pytest.fail("nobody writes"))
    reopen(trained[0])


def test_a_folder_without_a_run_is_refused(tmp_path, trained):
    with pytest.raises(SettingsError, match=r"absent: holds no run, expected the --out of one, with its config\.json"):
        reopen(tmp_path / "absent")
    for content in ("{", "[]", '{"settings": 3, "data": ""}', '{"settings": {}}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(SettingsError, match=r"config\.json: is no record of a run"):
            reopen(tmp_path)
    record = json.loads((trained[0] / "config.json").read_text())
    record["settings"]["warp_speed"] = 3
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(SettingsError, match=r"has --warp-speed, expected settings that there are"):
        reopen(tmp_path)


def test_data_that_is_gone_or_changed_is_refused(tmp_path):
    resolve(settings(tmp_path), tmp_path / "run")
    (tmp_path / "text.txt").write_text(TEXT + "one more line.\n")
    with pytest.raises(DataError, match=r"text\.txt is other data than its run was trained on, expected the same"):
        reopen(tmp_path / "run")
    (tmp_path / "text.txt").unlink()
    with pytest.raises(DataError, match=r"the data of its run cannot be read: .*text\.txt: no such file or folder"):
        reopen(tmp_path / "run")


def test_a_run_that_was_never_trained_has_no_state(tmp_path):
    resolve(settings(tmp_path), tmp_path / "run")
    with pytest.raises(CheckpointError, match="no checkpoint, expected that of a run that was trained"):
        last_state(reopen(tmp_path / "run"))
