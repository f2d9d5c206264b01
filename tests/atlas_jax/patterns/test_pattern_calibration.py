"""Probabilities that can be taken at their word: fitted on one set, judged on another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from patterns_world import record_all, score
from scipy.optimize import isotonic_regression, minimize

from atlas_jax.patterns import nearest
from atlas_jax.patterns.calibration import Calibration, fit, probability, reliability, unfitted
from atlas_jax.patterns.memory import PatternConfig, init_state

CONFIG = PatternConfig(width=8, capacity=100, neighbours=5)
fitted = jax.jit(fit)
judged = jax.jit(reliability, static_argnames="bins")
evidence_of = jax.jit(
    jax.vmap(lambda state, x: nearest.score(CONFIG, state, unfitted(), x).evidence, in_axes=(None, 0))
)


def drawn(rng, count, apart=1.5):
    """Two sides that overlap: normal with means `apart` from one another."""
    bad = rng.random(count) < 0.4
    shift = np.where(bad[:, None], apart, 0.0) * np.eye(8)[0]
    return jnp.asarray(rng.standard_normal((count, 8)) + shift, jnp.float32), jnp.asarray(bad)


def remembered(vectors, bad):
    count = len(bad)
    rows = bad.astype(jnp.int32), jnp.arange(count), vectors, jnp.ones(count)
    return record_all(CONFIG, init_state(CONFIG), *rows)[0]


@pytest.fixture(scope="module")
def world():
    """A memory, and evidence and outcomes of its own, of a second and of a third set."""
    rng = np.random.default_rng(0)
    first, second, third = drawn(rng, 150), drawn(rng, 400), drawn(rng, 2000)
    state = remembered(*first)
    return [(evidence_of(state, vectors), bad) for vectors, bad in (first, second, third)]


def likelihood(w, evidence, bad):
    n_bad, n_good = bad.sum(), (~bad).sum()
    targets = np.where(bad, (n_bad + 1) / (n_bad + 2), 1 / (n_good + 2))
    logits = w[0] * evidence + w[1]
    return (np.logaddexp(0, logits) - targets * logits).sum()


def test_the_fit_is_that_of_greatest_likelihood(world):
    evidence, bad = (np.asarray(x) for x in world[1])
    expected = minimize(likelihood, [0.0, 0.0], args=(evidence.astype(np.float64), bad), tol=1e-10).x
    got = fitted(*world[1])
    np.testing.assert_allclose([got.slope, got.intercept], expected, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(got.prior, (bad.sum() + 1) / (bad.size + 2), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_separable_outcomes_stay_finite(scale):
    """Plain maximum likelihood would go to infinity; the smoothed targets do not let it."""
    evidence = jnp.linspace(-1, 1, 40) * scale
    calibration = fitted(evidence, evidence > 0)
    ends = probability(calibration, evidence[jnp.array([0, -1])])
    assert np.isfinite(calibration.slope)
    assert 0 < float(ends[0]) < 0.05
    assert 0.95 < float(ends[1]) < 1


def test_a_third_set_finds_the_probabilities_right(world):
    """Within twice what chance alone makes of the error; the uncalibrated evidence is much further off."""
    calibration = fitted(*world[1])
    evidence, bad = world[2]
    after, before = (judged(probability(c, evidence), bad) for c in (calibration, unfitted()))
    assert float(after.error) < 0.05 < float(before.error)
    assert float(after.brier) < float(before.brier)
    assert float(after.skill) > 0.2


def test_vectors_of_the_memory_calibrate_nothing(world):
    """They lie at distance 0 of themselves: what was fitted to them is too sure of all others."""
    own, held_out = (judged(probability(fitted(*world[i]), world[2][0]), world[2][1]) for i in (0, 1))
    assert float(own.error) > 2 * float(held_out.error)


def test_isotonic_regression_is_no_better(world):
    """Over memories and outcomes drawn anew: why there is one calibration and not two."""
    difference = []
    for seed in range(8):
        rng = np.random.default_rng(100 + seed)
        state = remembered(*drawn(rng, 150))
        (x, bad), (y, truth) = drawn(rng, 150), drawn(rng, 2000)
        evidence, test = evidence_of(state, x), evidence_of(state, y)
        order = np.argsort(evidence)
        steps = isotonic_regression(np.asarray(bad, float)[order]).x
        isotonic = np.interp(np.asarray(test), np.asarray(evidence)[order], steps)
        platt = np.asarray(probability(fitted(evidence, bad), test))
        difference.append(((isotonic - np.asarray(truth)) ** 2).mean() - ((platt - np.asarray(truth)) ** 2).mean())
    assert np.mean(difference) > 2 * np.std(difference) / 8**0.5


def test_what_does_not_count_changes_nothing(world):
    evidence, bad = (x[:60] for x in world[1])
    padded = jnp.append(evidence, jnp.full(20, 7.0)), jnp.append(bad, jnp.ones(20, bool))
    counted = jnp.arange(80) < 60
    for one, two in zip(fitted(evidence, bad), fitted(*padded, counted), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4)
    p = probability(unfitted(), evidence), probability(unfitted(), padded[0])
    for one, two in zip(judged(p[0], bad), judged(p[1], padded[1], counted), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


@pytest.mark.parametrize("outcome", [True, False])
def test_outcomes_of_one_kind_give_a_constant(outcome):
    evidence = jnp.linspace(-1, 1, 8)
    calibration = fitted(evidence, jnp.full(8, outcome))
    assert float(calibration.slope) == 0
    np.testing.assert_allclose(probability(calibration, evidence), 0.9 if outcome else 0.1, atol=1e-4)


def test_the_same_evidence_for_all_gives_their_share():
    calibration = fitted(jnp.full(100, 0.3), jnp.arange(100) < 25)
    np.testing.assert_allclose(probability(calibration, jnp.float32(0.9)), 0.25, atol=0.01)


def test_figures_are_those_of_the_definition():
    rng = np.random.default_rng(2)
    p, bad = rng.random(103), rng.random(103) < 0.5
    got = judged(jnp.asarray(p, jnp.float32), jnp.asarray(bad), bins=5)
    order = np.argsort(p)
    parts = [order[np.arange(103) * 5 // 103 == i] for i in range(5)]
    brier = ((p - bad) ** 2).mean()
    np.testing.assert_allclose(got.brier, brier, rtol=1e-5)
    np.testing.assert_allclose(got.skill, 1 - brier / (bad.mean() * (1 - bad.mean())), rtol=1e-4)
    np.testing.assert_allclose(got.predicted, [p[part].mean() for part in parts], rtol=1e-5)
    np.testing.assert_allclose(got.observed, [bad[part].mean() for part in parts], rtol=1e-5)
    error = sum(abs(p[part].mean() - bad[part].mean()) * len(part) for part in parts) / 103
    np.testing.assert_allclose(got.error, error, rtol=1e-4)


def test_chance_alone_makes_the_error_that_the_docstring_says():
    rng = np.random.default_rng(3)
    errors = [
        float(
            judged(jnp.asarray(rng.uniform(0.499, 0.501, 1000), jnp.float32), jnp.asarray(rng.random(1000) < 0.5)).error
        )
        for _ in range(40)
    ]
    np.testing.assert_allclose(np.mean(errors), (2 * 0.25 * 10 / (np.pi * 1000)) ** 0.5, rtol=0.1)


def test_a_calibration_belongs_to_the_score(world):
    state = remembered(*drawn(np.random.default_rng(5), 30))
    x = jnp.ones(8)
    sure = score(CONFIG, state, Calibration(jnp.float32(0.0), jnp.float32(9.0), jnp.float32(0.5)), x)
    assert float(sure.probability) > 0.999


def test_lengths_that_differ_are_named():
    with pytest.raises(ValueError, match=r"bad has shape \(3,\), expected \(4,\)"):
        fit(jnp.zeros(4), jnp.zeros(3, bool))
    with pytest.raises(ValueError, match=r"counted has shape \(2,\), expected \(4,\)"):
        reliability(jnp.zeros(4), jnp.zeros(4, bool), jnp.zeros(2, bool))
