"""Models side by side: the same as each alone, by their seeds alone, and measured as the formula says."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.data import batch_order
from atlas_jax.models import transformer
from atlas_jax.models.transformer import TransformerConfig
from validation.bench import training
from validation.bench.training import LENGTH, Trainee, measure, train

TOKENS = 32
TINY = Trainee(
    transformer, TransformerConfig(vocab_size=TOKENS, d_model=8, layers=1, heads=2, feed_forward=8), rate=0.02
)


def chain(count, seed):
    """Windows of a stream in which each token is followed by one of two others."""
    follows = np.random.default_rng(5).integers(0, TOKENS, (TOKENS, 2))
    rng = np.random.default_rng(seed)
    windows = np.zeros((count, LENGTH + 1), np.int32)
    windows[:, 0] = rng.integers(0, TOKENS, count)
    for step in range(LENGTH):
        windows[:, step + 1] = follows[windows[:, step], rng.integers(0, 2, count)]
    return windows


def own(params, index):
    return jax.tree.map(lambda leaf: leaf[index], jax.device_get(params))


def test_equal_seeds_and_windows_give_equal_parameters():
    windows = [chain(9, 0), chain(5, 1), chain(9, 0)]
    first, again = (train(TINY, windows, [3, 3, 4], steps=20) for _ in range(2))
    chex.assert_trees_all_equal(first, again)
    for other in (1, 2):  # other windows, and another seed
        different = jax.tree.map(lambda a, b: np.abs(a - b).max(), own(first, 0), own(first, other))
        assert min(jax.tree.leaves(different)) > 1e-4


def test_one_of_three_is_as_if_trained_alone():
    windows = [chain(9, 0), chain(5, 1), chain(12, 2)]
    together = train(TINY, windows, [0, 1, 2], steps=20)
    for index in (0, 2):
        alone = train(TINY, windows[index : index + 1], [index], steps=20)
        chex.assert_trees_all_close(own(together, index), own(alone, 0), atol=2e-4)


def test_every_seed_reads_its_windows_in_an_order_of_its_own(monkeypatch):
    orders = []

    def spied(**asked):
        orders.append(batch_order(**asked))
        return orders[-1]

    monkeypatch.setattr(training, "batch_order", spied)
    train(TINY, [chain(9, 0)] * 3, [0, 1, 1], steps=20)
    first, other, again = orders
    assert first.shape == (20, 4)
    assert set(np.bincount(first.reshape(-1)).tolist()) == {8, 9}  # 80 places for 9 windows
    np.testing.assert_array_equal(other, again)
    assert (first != other).any()


def test_models_learn_and_longer_training_learns_more():
    held_out = chain(8, 9)
    short, long = (measure(TINY, train(TINY, [chain(40, 0)], [0], steps=steps), held_out).mean() for steps in (20, 200))
    assert long < short < np.log2(TOKENS)
    assert long < 2.5  # of 1 bit that two equally likely followers leave


def test_a_measure_is_the_loss_of_every_target_in_bits():
    params = train(TINY, [chain(9, 0), chain(9, 1), chain(9, 2)], [0, 1, 2], steps=20)
    windows = chain(11, 9)  # not what the program takes at once
    found = measure(TINY, params, windows)
    assert found.shape == (3, 11, LENGTH)
    for index in range(3):
        logits, _ = transformer.apply(
            TINY.config, jax.tree.map(jnp.asarray, own(params, index)), jnp.asarray(windows[:, :-1])
        )
        shares = np.exp(np.asarray(logits, np.float64))
        shares /= shares.sum(axis=-1, keepdims=True)
        picked = np.take_along_axis(shares, windows[:, 1:, None], axis=-1)[..., 0]
        np.testing.assert_allclose(found[index], -np.log2(picked), atol=1e-4)
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_no_target_is_seen_before_it_is_predicted():
    params = train(TINY, [chain(9, 0)], [0], steps=20)
    windows = chain(8, 9)
    changed = windows.copy()
    changed[:, 100:] = (changed[:, 100:] + 1) % TOKENS
    before, after = measure(TINY, params, windows)[0], measure(TINY, params, changed)[0]
    np.testing.assert_allclose(before[:, :99], after[:, :99], atol=1e-5)
    assert np.abs(before[:, 99:] - after[:, 99:]).max() > 0.1


@pytest.mark.parametrize("steps", [0, -20, 10, 30])
def test_steps_are_whole_segments(steps):
    with pytest.raises(ValueError, match=rf"steps={steps}, expected a positive multiple of 20"):
        train(TINY, [chain(4, 0)], [0], steps=steps)
