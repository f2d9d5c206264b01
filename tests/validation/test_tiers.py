"""One tier: interrupted or not, on one device or four, its numbers are the same."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import jax
import numpy as np
import pytest
from small_world import markov_rows

from atlas_jax.data import pack, train_bpe
from atlas_jax.distributed.mesh import variant_mesh
from spectral.resonance import ResonanceConfig
from validation import tiers
from validation.profiles import PROFILES, TierPlan
from validation.tiers import (
    CHECKPOINTS,
    RESTARTS,
    HeldOut,
    Variant,
    evaluate_models,
    learning_rates,
    load_result,
    store_result,
    train_tier,
)

STEPS, SEGMENT, LENGTH = 80, 2, 32
SEGMENTS = STEPS // SEGMENT + sum(round(STEPS * share / 5) // SEGMENT for share in CHECKPOINTS[:-1])


CONFIG = ResonanceConfig(d_model=8, layers=1, heads=2, context=LENGTH, chunk=LENGTH)
PLAN = TierPlan(CONFIG, learning_rate=0.03, models=(2, 2), controls=0, batch=4)


@pytest.fixture(scope="module")
def world():
    rows = markov_rows(900, 11)
    tokenizer = train_bpe(rows, 300)
    documents = tokenizer.encode_batch(rows)
    parts = [documents[i * 200 : (i + 1) * 200] for i in range(4)]
    packed = [pack(part, length=LENGTH, eos=tokenizer.eos, row_ids=range(len(part))) for part in parts]
    windows = pack(documents[800:], length=LENGTH, eos=tokenizer.eos, row_ids=range(100)).tokens[:24].copy()
    measured = np.ones((24, LENGTH), bool)
    measured[:, :4] = False
    tail = np.zeros((4, 24, LENGTH), bool)
    tail[:, :, 4:8] = True
    config = replace(CONFIG, vocab_size=tokenizer.vocab_size)
    variants = [Variant(i, 100 + i, 0.03 if i < 2 else 0.015) for i in range(4)]
    return config, variants, packed, HeldOut(windows, measured, tail, 1.0)


def train(world, folder, on_progress=lambda done, total, loss: None, variants=None):
    config, usual, packed, held_out = world
    return train_tier(
        config,
        variants or usual,
        packed,
        held_out,
        steps=STEPS,
        segment=SEGMENT,
        plan=PLAN,
        directory=folder,
        on_progress=on_progress,
    )


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    calls = []
    result = train(world, tmp_path_factory.mktemp("undisturbed"), lambda *told: calls.append(told))
    return result, calls


def assert_same(one, other, but=("seconds",)):
    """Bit by bit."""
    for field in fields(one):
        if field.name not in but:
            left, right = (jax.tree.leaves(getattr(result, field.name)) for result in (one, other))
            assert len(left) == len(right) > 0
            for a, b in zip(left, right, strict=True):
                np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=field.name)


def test_losses_fall_from_checkpoint_to_checkpoint(undisturbed, world):
    result, calls = undisturbed
    assert result.loss.shape == result.tail_loss.shape == (4, 4)
    assert (np.diff(result.loss.mean(axis=0)) < 0).all()
    assert (result.loss[:, -1] < np.log2(world[0].vocab_size) - 1).all()
    assert (result.accuracy > 0.05).all()
    assert result.curve.shape == (4, STEPS // SEGMENT)
    assert (result.curve[:, -1] < result.curve[:, 0] - 1).all()
    assert [done for done, _, _ in calls] == list(range(1, SEGMENTS + 1))
    assert {total for _, total, _ in calls} == {SEGMENTS}


def test_results_measure_the_stored_models(undisturbed, world):
    result, _ = undisturbed
    config, _, _, held_out = world
    loss, tail, accuracy = evaluate_models(config, result.params, held_out, PLAN)
    np.testing.assert_array_equal(loss, result.loss[:, -1])
    np.testing.assert_array_equal(tail, result.tail_loss[:, -1])
    np.testing.assert_array_equal(accuracy, result.accuracy)


def test_earlier_checkpoints_change_nothing_about_the_end(undisturbed, world, tmp_path):
    config, variants, packed, held_out = world
    sizes = {"steps": STEPS, "segment": SEGMENT, "plan": PLAN}
    last = train_tier(config, variants, packed, held_out, **sizes, directory=tmp_path, checkpoints=(1.0,))
    whole, _ = undisturbed
    assert last.loss.shape == (4, 1)
    np.testing.assert_array_equal(last.loss[:, 0], whole.loss[:, -1])
    assert_same(last, whole, but=("seconds", "loss", "tail_loss"))


class Killed(Exception):
    """Stands for the end of the process."""


def killing_at(call):
    def on_progress(done, total, loss):
        if done == call:
            raise Killed

    return on_progress


# Inside the first branch, inside the last one, and at the very end.
@pytest.mark.parametrize("call", [5, SEGMENTS - 3, SEGMENTS])
def test_a_killed_tier_goes_on_to_the_same_bits(undisturbed, world, tmp_path, monkeypatch, call):
    monkeypatch.setattr(tiers, "SAVE_EVERY_SECONDS", 0.0)
    with pytest.raises(Killed):
        train(world, tmp_path, killing_at(call))
    calls = []
    resumed = train(world, tmp_path, lambda *told: calls.append(told))
    assert_same(resumed, undisturbed[0])
    assert 1 < calls[0][0] <= call, "nothing was resumed"
    assert calls[-1][0] == SEGMENTS


def test_killed_twice(undisturbed, world, tmp_path, monkeypatch):
    monkeypatch.setattr(tiers, "SAVE_EVERY_SECONDS", 0.0)
    for call in (2, 25):  # on the trunk, inside the third branch
        with pytest.raises(Killed):
            train(world, tmp_path, killing_at(call))
    assert_same(train(world, tmp_path), undisturbed[0])


def test_a_finished_tier_survives_on_disk(undisturbed, world, tmp_path):
    result, _ = undisturbed
    assert load_result(tmp_path / "none", world[0], 4) is None
    store_result(tmp_path / "kept", result)
    kept = load_result(tmp_path / "kept", world[0], 4)
    assert_same(kept, result, but=())
    assert {type(leaf) for leaf in jax.tree.leaves((kept.params, result.params))} == {np.ndarray}


def test_a_diverging_model_is_restarted_at_a_lower_rate(undisturbed, world, tmp_path):
    _, usual, _, _ = world
    variants = [usual[0], usual[1]._replace(learning_rate=30.0), *usual[2:]]
    result = train(world, tmp_path, variants=variants)
    assert result.restarts[1] > 0
    assert result.learning_rate[1] == 30.0 * 0.5 ** result.restarts[1]
    assert result.restarts[1] <= RESTARTS
    others = [0, 2, 3]
    assert (result.restarts[others] == 0).all()
    for name in ("loss", "tail_loss", "accuracy", "curve", "learning_rate"):
        np.testing.assert_array_equal(getattr(result, name)[others], getattr(undisturbed[0], name)[others], name)
    for ours, theirs in zip(jax.tree.leaves(result.params), jax.tree.leaves(undisturbed[0].params), strict=True):
        np.testing.assert_array_equal(ours[others], theirs[others])
        assert (ours[1] != theirs[1]).any()


def test_four_devices_give_what_one_gives(undisturbed, world, tmp_path, monkeypatch):
    assert len(jax.devices()) == 4
    monkeypatch.setattr(tiers, "variant_mesh", lambda count, batch: variant_mesh(count, batch, jax.devices()[:1]))
    alone = train(world, tmp_path)
    for name in ("loss", "tail_loss", "curve"):
        np.testing.assert_allclose(getattr(alone, name), getattr(undisturbed[0], name), atol=2e-3, err_msg=name)


def test_a_batch_split_over_devices_gives_what_one_device_gives(world, tmp_path, monkeypatch):
    config, variants, packed, held_out = world
    half = (config, variants[:2], packed[:2], held_out._replace(tail=held_out.tail[:2]))
    assert dict(variant_mesh(2, PLAN.batch).shape) == {"variant": 2, "batch": 2}
    monkeypatch.setattr(tiers, "variant_mesh", lambda count, batch: variant_mesh(count, PLAN.batch))
    split = train(half, tmp_path / "split")
    monkeypatch.setattr(tiers, "variant_mesh", lambda count, batch: variant_mesh(count, PLAN.batch, jax.devices()[:1]))
    np.testing.assert_allclose(train(half, tmp_path / "alone").loss, split.loss, atol=2e-3)


def test_rates_warm_up_stay_and_decay_to_nothing():
    peaks, steps = np.array([0.02, 0.01]), 160
    for share in CHECKPOINTS:
        end = round(steps * share)
        rates = learning_rates(peaks, steps, end)
        assert rates.shape == (2, end)
        np.testing.assert_allclose(rates[1] * 2, rates[0])
        assert rates[0, -1] < 1e-3 * peaks[0]
        assert rates[0, 0] > 0
        assert (np.diff(rates[0, : steps // 20]) > 0).all()
        stable = rates[0, steps // 20 : end - round(end / 5)]
        np.testing.assert_allclose(stable, peaks[0], rtol=1e-6)
        assert (np.diff(rates[0, end - round(end / 5) :]) < 0).all()


def test_the_trunk_is_shared_by_all_branches():
    rates = [learning_rates(np.array([0.02]), 160, round(160 * share))[0] for share in CHECKPOINTS]
    for short, long in pairwise(rates):
        trunk = len(short) - round(len(short) / 5)
        np.testing.assert_array_equal(short[:trunk], long[:trunk])


def test_steps_that_would_cut_a_segment_are_refused(world, tmp_path):
    config, variants, packed, held_out = world
    with pytest.raises(ValueError, match="steps=100, expected a multiple of 40 segments of 2 steps"):
        train_tier(config, variants, packed, held_out, plan=PLAN, steps=100, segment=2, directory=tmp_path)


def test_idle_copies_split_batches_and_accumulation_change_nothing(world, undisturbed, tmp_path, monkeypatch):
    """As on accelerators: five places for four models, the batch over two devices in two parts one after the other."""
    monkeypatch.setattr(
        tiers, "_placement", lambda variants, plan: (variant_mesh(variants + 1, 2, jax.devices()[:2]), 1)
    )
    assert variant_mesh(5, 2, jax.devices()[:2]).shape["batch"] == 2
    config, variants, packed, held_out = world
    plan = replace(PLAN, accumulation=2)
    found = train_tier(config, variants, packed, held_out, plan=plan, steps=STEPS, segment=SEGMENT, directory=tmp_path)
    whole, _ = undisturbed
    # Adam turns the rounding of a different order of summation into steps; after 80 of them losses agree to 1e-3 bits.
    for name in ("loss", "tail_loss", "curve"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), atol=2e-3, err_msg=name)
    assert jax.tree.leaves(found.params)[0].shape[0] == len(variants)
    loss, _, _ = evaluate_models(config, found.params, held_out, plan)
    np.testing.assert_allclose(loss, found.loss[:, -1], rtol=1e-6)


def test_accelerators_are_used_as_the_plan_says(monkeypatch):
    plans = PROFILES["h200x4"].tiers
    monkeypatch.setattr(tiers.jax, "default_backend", lambda: "gpu")
    placed = [tiers._placement(plan.count, plan) for plan in plans]
    shapes = [(mesh.shape["variant"], mesh.shape["batch"], idle) for mesh, idle in placed]
    assert shapes == [(2, 1, 0), (3, 1, 1), (1, 4, 0)]
    assert [(plan.rows, plan.batch, plan.accumulation) for plan in plans] == [
        (2_000_000, 256, 2),
        (10_000_000, 128, 2),
        (20_000_000, 64, 2),
    ]
