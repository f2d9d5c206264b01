"""Nearest patterns, evidence and scores, against the oracle and at their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patterns_world import CONFIG, Oracle, find, left_out, record, score, touch

from atlas_jax.patterns.calibration import Calibration, unfitted
from atlas_jax.patterns.memory import BAD, GOOD, init_state

VECTORS = st.tuples(*[st.integers(-3, 3)] * CONFIG.width)
ROWS = st.lists(st.tuples(st.integers(0, 1), VECTORS), max_size=8)
CALIBRATION = Calibration(jnp.float32(3.0), jnp.float32(0.5), jnp.float32(0.3))


def both(rows):
    oracle, state = Oracle(CONFIG), init_state(CONFIG)
    for label, (side, vector) in enumerate(rows):
        oracle.record(side, label, vector, 1.0)
        state, _ = record(CONFIG, state, side, label, jnp.array(vector, jnp.float32), 1.0)
    return oracle, state


@given(ROWS, VECTORS)
def test_a_score_is_the_oracles(rows, vector):
    oracle, state = both(rows)
    got, expected = score(CONFIG, state, CALIBRATION, jnp.array(vector, jnp.float32)), oracle.evidence(vector)
    assert bool(got.known) == (expected is not None)
    evidence = 0.0 if expected is None else expected
    np.testing.assert_allclose(got.evidence, evidence, atol=1e-6)
    probability = 0.3 if expected is None else 1 / (1 + np.exp(-(3 * expected + 0.5)))
    np.testing.assert_allclose(got.probability, probability, atol=1e-6)
    for side in (GOOD, BAD):
        nearest = oracle.distances(vector, side)[: CONFIG.neighbours]
        nearest += [np.inf] * (CONFIG.neighbours - len(nearest))
        np.testing.assert_allclose(got.matches.distances[side], nearest, rtol=1e-6)
        np.testing.assert_array_equal(got.matches.labels[side] < 0, np.isinf(nearest))
    voted = {(s, int(got.matches.labels[s, i])) for s in (0, 1) for i in range(2) if got.matches.voted[s, i]}
    assert voted == set(oracle.voters(vector))


@given(ROWS)
def test_evidence_left_out_is_that_of_the_others(rows):
    oracle, state = both(rows)
    evidence, known = left_out(CONFIG, state)
    for side in (GOOD, BAD):
        for place, slot in enumerate(oracle.sides[side]):
            expected = oracle.evidence(slot.vector, but=slot) if slot else None
            assert bool(known[side, place]) == (expected is not None)
            if expected is not None:
                np.testing.assert_allclose(evidence[side, place], expected, atol=1e-6)


def test_an_equal_vector_is_at_distance_0_however_long_it_is():
    """The form |x|^2 + |v|^2 - 2 x.v would leave a distance of tens here."""
    vector = jnp.array([12345.678, 2e4, -3e5], jnp.float32)
    state, _ = record(CONFIG, init_state(CONFIG), BAD, 0, vector, 1.0)
    state, _ = record(CONFIG, state, GOOD, 1, vector + 1, 1.0)
    got = score(CONFIG, state, unfitted(), vector)
    assert float(got.distances[BAD]) == 0
    assert float(got.evidence) == 1


def test_evidence_has_no_unit():
    _, state = both([(GOOD, (1, 2, 3)), (GOOD, (3, 0, 0)), (BAD, (-1, 0, 2)), (BAD, (0, -3, 1))])
    x = jnp.array([0.3, 0.2, -1.0])
    near = score(CONFIG, state, unfitted(), x)
    far = score(CONFIG, state._replace(vectors=1000 * state.vectors), unfitted(), 1000 * x)
    np.testing.assert_allclose(near.evidence, far.evidence, rtol=1e-5)
    assert abs(float(near.evidence)) > 0.05


def test_far_from_all_patterns_there_is_no_evidence():
    _, state = both([(GOOD, (1, 0, 0)), (BAD, (-1, 0, 0))])
    assert abs(float(score(CONFIG, state, unfitted(), jnp.array([1e6, 2e6, 0.0])).evidence)) < 1e-5


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e19])
def test_a_vector_beyond_measure_has_no_probability_and_reads_nothing(odd):
    _, state = both([(GOOD, (1, 0, 0)), (BAD, (-1, 0, 0))])
    got = score(CONFIG, state, unfitted(), jnp.array([0.0, odd, 0.0]))
    assert np.isnan(got.probability)
    assert not got.known
    np.testing.assert_array_equal(touch(state, got.matches).last_used, state.last_used)


def test_scoring_many_is_scoring_each():
    rng = np.random.default_rng(0)
    _, state = both(
        [(int(side), tuple(map(float, v))) for side, v in zip([0, 1] * 4, rng.normal(size=(8, 3)), strict=True)]
    )
    queries = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    many = jax.jit(jax.vmap(lambda x: score(CONFIG, state, CALIBRATION, x)))(queries)
    for i, query in enumerate(queries):
        one = score(CONFIG, state, CALIBRATION, query)
        np.testing.assert_allclose(many.probability[i], one.probability, rtol=1e-6)
        np.testing.assert_array_equal(many.matches.labels[i], one.matches.labels)


def test_a_query_of_another_width_is_named():
    with pytest.raises(ValueError, match=r"vector has shape \(2,\), expected the last axis to be width=3"):
        find(CONFIG, init_state(CONFIG), jnp.zeros(2))
