"""Products of gates and sums that fade by them, in blocks: as loops over tokens give them, exact on every device."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.memory.decays import BLOCK, fading_sums, ratios, running
from atlas_jax.memory.tokens import FORGOTTEN

LENGTHS = [1, 7, BLOCK, BLOCK + 1, 3 * BLOCK - 5, 4 * BLOCK]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def drawn(length, columns=3):
    draw = np.random.default_rng(length)
    return np.log1p(-0.2 * draw.random(length)), draw.normal(size=(length, columns))


def looped(logs, rows):
    found, now = [], 0.0
    for log, row in zip(logs, rows, strict=True):
        now = np.exp(log) * now + row
        found.append(now)
    return np.array(found)


def stretches(logs):
    """Each summed by itself, in float64."""
    logs = np.asarray(logs, np.float64)
    rows = [[np.exp(logs[k + 1 : n + 1].sum()) if k <= n else 0.0 for k in range(len(logs))] for n in range(len(logs))]
    return np.array(rows)


@pytest.mark.parametrize("length", LENGTHS)
def test_blocks_give_what_a_loop_gives(x64, length):
    logs, rows = drawn(length)
    np.testing.assert_allclose(compiled(running)(logs), np.cumsum(logs), rtol=1e-12)
    np.testing.assert_allclose(compiled(ratios)(logs), stretches(logs), rtol=1e-12)
    np.testing.assert_allclose(compiled(fading_sums)(logs, rows), looped(logs, rows), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("forgotten", [-1.5, -100.0])
def test_after_much_is_forgotten_the_gates_of_later_blocks_are_as_exact(forgotten):
    """Differences of sums over the whole chunk, near -770 or -51,200 here, are off by 1e-4 or by everything."""
    logs = np.where(np.arange(1024) < 512, forgotten, -1e-3).astype(np.float32)
    late = np.s_[
        512:, 511:
    ]  # the last that is forgotten ends a block: what comes after it is a stretch from its own on
    np.testing.assert_allclose(compiled(ratios)(logs)[late], stretches(logs)[late], rtol=3e-6)
    rows = np.ones((1024, 1), np.float32)
    np.testing.assert_allclose(compiled(fading_sums)(logs, rows)[512:], looped(logs, rows)[512:], rtol=3e-6)


def test_gradients_of_blocks_are_those_of_a_loop(x64):
    logs, rows = drawn(BLOCK + 9)
    weights = np.random.default_rng(0).normal(size=rows.shape)

    def scanned(logs, rows):
        def step(now, token):
            now = jnp.exp(token[0]) * now + token[1]
            return now, now

        return jnp.sum(weights * jax.lax.scan(step, jnp.zeros(rows.shape[1]), (logs, rows))[1])

    def whole(logs, rows):
        """y = R x, R the ratios."""
        return jnp.sum(weights * (ratios(logs) @ rows))

    expected = compiled(jax.grad(scanned, argnums=(0, 1)))(logs, rows)
    for function in (lambda *given: jnp.sum(weights * fading_sums(*given)), whole):
        chex.assert_trees_all_close(
            compiled(jax.grad(function, argnums=(0, 1)))(logs, rows), expected, rtol=1e-10, atol=1e-12
        )


def test_gradients_are_finite_where_nothing_is_kept(x64):
    """Above the diagonal the ratios would be beyond all numbers."""
    logs, rows = np.full(2 * BLOCK + 1, FORGOTTEN), np.ones((2 * BLOCK + 1, 1))

    def total(logs, rows):
        return jnp.sum(ratios(logs)) + jnp.sum(fading_sums(logs, rows))

    for leaf in compiled(jax.grad(total, argnums=(0, 1)))(logs, rows):
        assert np.isfinite(leaf).all()


def test_the_future_is_not_seen(x64):
    logs, rows = drawn(3 * BLOCK)
    other = np.where(np.arange(len(logs)) < 100, logs, -2.0), np.where(np.arange(len(logs))[:, None] < 100, rows, 9.0)
    run = compiled(fading_sums)
    np.testing.assert_array_equal(run(logs, rows)[:100], run(*other)[:100])
    np.testing.assert_array_equal(compiled(ratios)(logs)[:100, :100], compiled(ratios)(other[0])[:100, :100])
