"""What eviction by reads and outcomes is for: a stream of which a fifth is recorded on the wrong side, in a small memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.patterns.calibration import unfitted
from atlas_jax.patterns.memory import PatternConfig, credit, init_state, record, touch
from atlas_jax.patterns.nearest import score

CONFIG = PatternConfig(width=8, capacity=24, neighbours=5)
KINDS = 24  # a side
STEPS = 600
WRONG_SIDE = 0.2


@partial(jax.jit, static_argnames=("reads", "outcomes"))
def shares_right(keys, *, reads, outcomes):
    """Of the second half of a stream of vectors, each scored before it is recorded, how many were on the side they scored."""

    def stream(key):
        first, rest = jax.random.split(key)
        centres = jax.random.normal(first, (2, KINDS, CONFIG.width))

        def step(state, place):
            a, b, c, d = jax.random.split(jax.random.fold_in(rest, place), 4)
            side = jax.random.bernoulli(a).astype(jnp.int32)
            vector = centres[side, jax.random.randint(b, (), 0, KINDS)] + 0.4 * jax.random.normal(c, (CONFIG.width,))
            scored = score(CONFIG, state, unfitted(), vector)
            if reads:
                state = touch(state, scored.matches)
            if outcomes:
                state = credit(CONFIG, state, scored.matches, side)
            recorded = jnp.where(jax.random.bernoulli(d, WRONG_SIDE), 1 - side, side)
            return record(CONFIG, state, recorded, place, vector)[0], (scored.probability > 0.5) == (side == 1)

        _, right = jax.lax.scan(step, init_state(CONFIG), jnp.arange(STEPS))
        return jnp.mean(right[STEPS // 2 :].astype(jnp.float32))

    return jax.vmap(stream)(keys)


@pytest.fixture(scope="module")
def shares():
    keys = jax.random.split(jax.random.key(0), 10)
    return {(r, o): np.asarray(shares_right(keys, reads=r, outcomes=o)) for r in (False, True) for o in (False, True)}


@pytest.mark.parametrize("without", [(False, False), (True, False), (False, True)])
def test_reads_and_outcomes_together_keep_the_patterns_that_are_right(shares, without):
    """Against first in first out, reads alone and outcomes alone, on the same streams."""
    gain = shares[True, True] - shares[without]
    assert gain.mean() > max(0.02, 3 * gain.std(ddof=1) / gain.size**0.5), gain.mean()
