"""Two stages: which chunks and which learning rate at which step, and the second goes on where the first stopped."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from atlas_jax.models.atlas import PRESETS
from atlas_jax.models.transformer import TransformerConfig
from atlas_jax.training.optim import wsd
from atlas_jax.training.runs.execution import execute
from atlas_jax.training.runs.run import resolve
from atlas_jax.training.runs.settings import Settings, SettingsError
from atlas_jax.training.runs.stages import config_at, stage_at, staged, two_stages

MICRO = PRESETS["micro"]
# The rule that compiles soonest.
SMALL = ("d_model=16", "layers=1", "heads=1", "feed_forward=16", "rule=delta", "network=linear", "rate=0.5")


def test_chunks_of_the_second_stage_are_taken_in_turn():
    stages = two_stages(MICRO, steps=20, sizes=(2, 4), share=0.25)
    assert [config_at(stages, index).chunks for index in (0, 14, 15, 16, 17, 19)] == [
        (16,),
        (16,),
        (2,),
        (4,),
        (2,),
        (2,),
    ]
    assert [(stage.number, stage.start, stage.stop) for stage in stages] == [(1, 0, 15), (2, 15, 20)]
    assert [stage_at(stages, index).number for index in (0, 14, 15, 19)] == [1, 1, 2, 2]
    assert two_stages(MICRO, steps=20, sizes=(), share=0.25) == ((1, 0, 20, (MICRO,)),)


def test_several_memories_have_a_chunk_each():
    config = PRESETS["micro-tnt"]
    (_, second) = two_stages(config, steps=20, sizes=(2, 4), share=0.05)
    assert second.configs == (replace(config, chunks=(2, 4)),)
    assert (second.start, second.stop) == (19, 20)
    with pytest.raises(ValueError, match=r"chunks are 2, 4, 8, expected 2, one for each local memory"):
        two_stages(config, steps=20, sizes=(2, 4, 8), share=0.05)


def test_what_cannot_be_a_second_stage_is_refused():
    with pytest.raises(ValueError, match="TransformerConfig has no local memories"):
        two_stages(TransformerConfig(), steps=20, sizes=(2,), share=0.05)
    for share in (0.0, 0.99, 1.0):
        with pytest.raises(ValueError, match="expected above 0 and below 1, a step at least for each"):
            two_stages(MICRO, steps=20, sizes=(2,), share=share)
    with pytest.raises(ValueError, match="shard"):
        two_stages(PRESETS["micro-tnt"], steps=20, sizes=(2, 5), share=0.05)


def test_the_learning_rate_begins_anew_in_the_second_stage():
    stages = two_stages(MICRO, steps=100, sizes=(2,), share=0.2)
    first = wsd(1.0, warmup=10, stable=50, decay=20, floor=0.1)
    schedule = staged(first, stages, peak=0.3, floor=0.1)
    found = np.asarray(schedule(np.arange(101)))
    np.testing.assert_allclose(found[:80], first(np.arange(80)), rtol=1e-6)
    np.testing.assert_allclose(found[[80, 90, 100]], [0.3, 0.165, 0.03], rtol=1e-6)


def settings(**changed):
    common = {"config": SMALL, "length": 16, "steps": 90, "rate": 1e-2, "devices": 1, "evaluate_windows": 64}
    return Settings(**{**common, **changed})


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_second_stage_goes_on_from_the_first_s_loss(tmp_path):
    run = resolve(settings(stage_two_chunks=(2, 4), stage_two_share=0.5, evaluate_every=5), tmp_path)
    counts = []

    def remember(event):
        counts.append(max(int(leaf) for leaf in jax.tree.leaves(event.state.opt_state) if leaf.shape == ()))

    execute(run, hooks=[remember])
    assert [row["chunk"] for row in rows(tmp_path / "metrics.jsonl")] == [16] * 45 + [2, 4] * 22 + [2]
    assert counts == list(range(1, 91)), "the optimizer's state began anew"
    compiled = [row["chunks"] for row in rows(tmp_path / "events.jsonl") if row["event"] == "compiled"]
    assert compiled == [[16], [2], [4]]
    found = {row["step"]: row for row in rows(tmp_path / "held_out.jsonl")}
    assert found[0]["loss"] - found[45]["loss"] > 1, "the first stage has learnt nothing"
    assert "loss_chunk_2" not in found[45]
    for chunk in (2, 4):
        assert abs(found[50][f"loss_chunk_{chunk}"] - found[45]["loss"]) < 0.1
        assert found[90][f"loss_chunk_{chunk}"] < found[45]["loss"]


def test_a_model_without_chunks_has_no_second_stage(tmp_path):
    asked = settings(model="transformer", preset="micro-32", config=(), stage_two_chunks=(2, 4))
    with pytest.raises(SettingsError, match="TransformerConfig has no local memories"):
        resolve(asked, tmp_path / "new")
    assert not (tmp_path / "new").exists()
