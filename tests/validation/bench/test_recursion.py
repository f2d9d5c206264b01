"""Recursion: every generation reads what the one before it wrote, and both measures tell when that is little."""

import jax
import numpy as np
import pytest
from bench_world import tiny

from validation.bench import recursion
from validation.bench.labels import Controls, recursion_criteria
from validation.bench.outcomes import LABEL_MODEL
from validation.bench.recursion import BEFORE, Recursion, recurse
from validation.bench.training import LENGTH

pytestmark = pytest.mark.usefixtures("small")


def fresh_params(seeds):
    return jax.vmap(lambda seed: LABEL_MODEL.model.init(LABEL_MODEL.config, jax.random.key(seed)))(np.array(seeds))


def test_models_that_write_one_word_leave_models_that_know_one_word(monkeypatch):
    domain = tiny("text")
    asked = []

    def one_word(model, config, params, *, eos, longest, seed, top_k):
        assert (model, config, eos, top_k) == (LABEL_MODEL.model, LABEL_MODEL.config, domain.tokenizer.eos, None)
        asked.append((seed, np.asarray(params["norm"]).shape))
        while True:
            yield np.full((64, recursion.STREAMS), 300 + seed // 100, np.int32)

    monkeypatch.setattr(recursion, "sample", one_word)
    found = recurse(domain, fresh_params((0, 1)), (0, 1))
    assert [seed for seed, _ in asked] == [1, 101, 2, 102, 3, 103, 0, 100]
    assert {shape for _, shape in asked} == {(LABEL_MODEL.config.d_model,)}  # one model's parameters at a time
    assert found.slope.shape == found.retention.shape == (2,)
    # 10 bits of a model that knows nothing, and a word that is certain to one that has read nothing else.
    assert (found.retention < 0.2).all()


def test_a_generation_reads_streams_from_where_they_are_under_way(monkeypatch):
    domain = tiny("text")
    read = []

    def counting(model, config, params, *, eos, longest, seed, top_k):
        for block in range(100):
            steps = np.arange(64 * block, 64 * (block + 1), dtype=np.int32)
            yield np.broadcast_to(steps[:, None], (64, recursion.STREAMS))

    def no_training(trainee, windows, seeds, *, steps):
        read.append(windows)
        assert steps == domain.steps
        return fresh_params(seeds)

    monkeypatch.setattr(recursion, "sample", counting)
    monkeypatch.setattr(recursion, "train", no_training)
    monkeypatch.setattr(recursion, "GENERATIONS", 2)
    recurse(domain, fresh_params((0,)), (0,))
    assert len(read) == 2
    for (windows,) in read:
        assert windows.shape == (recursion.STREAMS, LENGTH + 1)
        np.testing.assert_array_equal(windows[7], np.arange(BEFORE, BEFORE + LENGTH + 1))


def test_a_real_chain_repeats_itself_and_starts_from_its_own_models(monkeypatch):
    domain = tiny("series")
    monkeypatch.setattr(recursion, "GENERATIONS", 2)
    monkeypatch.setattr(recursion, "BEFORE", 0)
    first, again = (recurse(domain, fresh_params((3,)), (3,)) for _ in range(2))
    other = recurse(domain, fresh_params((4,)), (3,))
    np.testing.assert_array_equal(first.slope, again.slope)
    np.testing.assert_array_equal(first.retention, again.retention)
    assert first.retention[0] != other.retention[0]


def test_c3_fires_where_loss_rises_faster_or_entropy_is_lost():
    rng = np.random.default_rng(0)
    controls = Controls({}, slope=0.1 + rng.normal(0, 0.005, (4, 3)), retention=1 + rng.normal(0, 0.005, (4, 3)))
    assert controls.slope is not None
    assert controls.retention is not None
    same = Recursion(controls.slope.mean(axis=0), controls.retention.mean(axis=0))

    def fired(found):
        return {criterion.group: criterion.fires for criterion in recursion_criteria(found, controls)}

    assert fired(same) == {"loss": False, "entropy": False}
    assert fired(same._replace(slope=same.slope + 0.2)) == {"loss": True, "entropy": False}
    assert fired(same._replace(retention=same.retention - 0.2)) == {"loss": False, "entropy": True}
    assert fired(same._replace(retention=same.retention + 0.2)) == {"loss": False, "entropy": False}
