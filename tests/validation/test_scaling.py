"""The scaling law, on points whose law is known."""

from __future__ import annotations

import numpy as np
import pytest

from validation.scaling import Law, TierLosses, fit, fit_tiers, gain_per_doubling, predict

SIZES, TOKENS = (9e4, 6e5, 1.2e6), np.array([4e4, 8e4, 1.6e5, 3.2e5])
# Bits per token near 6 at these sizes, as tiny models of text have; exponents on and off the prior.
LAWS = [
    Law(3.0, 60.0, 0.34, 50.0, 0.28, 0.0),
    Law(2.0, 25.0, 0.25, 80.0, 0.32, 0.0),
    Law(4.0, 300.0, 0.45, 30.0, 0.22, 0.0),
]


def tiers_of(law, sizes=SIZES, runs=5, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return [
        TierLosses(int(size), TOKENS, law.loss(size, TOKENS) + noise * rng.normal(size=(runs, 1)) * np.ones((1, 4)))
        for size in sizes
    ]


@pytest.mark.parametrize("law", LAWS)
def test_a_known_law_foretells_a_larger_model(law):
    found, predicted, (low, high) = predict(tiers_of(law, SIZES[:2]), int(SIZES[2]), TOKENS, seed=0)
    actual = float(law.loss(SIZES[2], TOKENS[-1]))
    assert abs(predicted / actual - 1) < 0.01
    assert low <= predicted <= high
    assert found.residual < 0.005
    assert float(found.loss(SIZES[2], TOKENS[-1])) == predicted


@pytest.mark.parametrize("law", LAWS)
def test_a_known_law_foretells_more_data(law):
    found = fit_tiers(tiers_of(law))
    for size in SIZES:
        assert abs(float(found.loss(size, 2 * TOKENS[-1]) / law.loss(size, 2 * TOKENS[-1])) - 1) < 0.01
        np.testing.assert_allclose(found.loss(size, TOKENS), law.loss(size, TOKENS), rtol=0.005)


def test_a_law_on_the_prior_is_recovered_number_by_number():
    law = LAWS[0]
    sizes, tokens = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e4, 1e8, 6), np.geomspace(1e4, 1e9, 8)))
    found = fit(sizes, tokens, law.loss(sizes, tokens))
    for name in ("irreducible", "a", "alpha", "b", "beta"):
        assert abs(getattr(found, name) / getattr(law, name) - 1) < 0.02, name


def test_losses_fall_with_size_and_with_data():
    law = fit_tiers(tiers_of(LAWS[0], noise=0.02))
    sizes, tokens = np.geomspace(1e4, 1e9, 20), np.geomspace(1e3, 1e9, 20)
    assert (np.diff(law.loss(sizes, 1e5)) < 0).all()
    assert (np.diff(law.loss(1e5, tokens)) < 0).all()
    assert (law.loss(sizes, 1e5) > law.irreducible).all()


def test_the_interval_covers_what_resampled_runs_would_have_said():
    law, inside, widths = LAWS[0], 0, []
    actual = float(law.loss(SIZES[2], TOKENS[-1]))
    for seed in range(10):
        _, _, (low, high) = predict(tiers_of(law, SIZES[:2], noise=0.03, seed=seed), int(SIZES[2]), TOKENS, seed)
        inside += low <= actual <= high
        widths.append(high - low)
    assert inside >= 7  # 9.5 expected if the interval were exact; a bootstrap of five runs is a little short
    quiet = predict(tiers_of(law, SIZES[:2], noise=0.003), int(SIZES[2]), TOKENS, 0)[2]
    assert quiet[1] - quiet[0] < 0.5 * np.mean(widths)


def test_a_prediction_depends_on_the_seed_alone():
    tiers = tiers_of(LAWS[0], SIZES[:2], noise=0.03)
    assert predict(tiers, 10**6, TOKENS, 1) == predict(tiers, 10**6, TOKENS, 1)
    assert predict(tiers, 10**6, TOKENS, 1)[2] != predict(tiers, 10**6, TOKENS, 2)[2]


def test_gain_per_doubling_is_the_last_step_down():
    loss = np.array([[7.0, 6.5, 6.0, 5.8], [7.0, 6.5, 6.1, 5.7]])
    gain, (low, high) = gain_per_doubling(loss)
    assert gain == pytest.approx(0.3)
    half = 1.96 * np.std([0.2, 0.4], ddof=1) / np.sqrt(2)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half))
    one, interval = gain_per_doubling(loss[:1])
    assert interval == (one, one)
    assert one == pytest.approx(0.2)
