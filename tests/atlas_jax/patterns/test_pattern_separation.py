"""Separation of the sides: figures by definition, intervals by coverage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from atlas_jax.patterns.separation import separation

separated = jax.jit(separation)
many = jax.jit(jax.vmap(separation))


def two(good, bad):
    """Rows of a common length, and which of them count."""
    size = max(len(good), len(bad))
    rows = np.full((2, size), np.nan)
    for row, values in zip(rows, (good, bad), strict=True):
        row[: len(values)] = values
    return jnp.asarray(np.nan_to_num(rows, nan=77.0), jnp.float32), jnp.asarray(~np.isnan(rows))


def test_figures_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    good, bad = np.round(rng.normal(0, 1, 30), 1), np.round(rng.normal(0.8, 2, 45), 1)  # rounded: ties count half
    got = separated(*two(good, bad))
    np.testing.assert_allclose(got.auroc, mannwhitneyu(bad, good).statistic / (30 * 45), rtol=1e-6)
    spread = ((good.var(ddof=1) + bad.var(ddof=1)) / 2) ** 0.5
    np.testing.assert_allclose(got.d_prime, (bad.mean() - good.mean()) / spread, rtol=1e-5)


def test_sides_the_wrong_way_round_are_seen():
    got = separated(*two(np.arange(9.0) + 4, np.arange(9.0)))
    assert float(got.auroc) < 0.5
    assert float(got.d_prime_interval[1]) < 0


@pytest.mark.parametrize(("good", "bad"), [([0.0, 1.0], [3.0]), ([], [])])
def test_fewer_than_two_a_side_say_nothing(good, bad):
    for figure in separated(*two(np.array([*good, 5.0])[: max(1, len(good))], np.array([*bad, 5.0])[:1])):
        assert np.isnan(figure).all()


def test_perfect_separation_of_few_is_not_certain():
    """3 of each apart: the interval reaches down, and less so for 30."""
    few, more = (separated(*two(np.linspace(0, 1, n), np.linspace(2, 3, n))) for n in (3, 30))
    assert float(few.auroc) == float(few.auroc_interval[1]) == 1
    assert 0.3 < float(few.auroc_interval[0]) < 0.7
    assert 0.85 < float(more.auroc_interval[0]) < 0.99


@pytest.mark.parametrize(
    ("apart", "spread", "good", "bad"), [(0.0, 1.0, 20, 20), (1.0, 1.0, 30, 15), (2.5, 2.0, 40, 25)]
)
def test_intervals_cover_the_truth_19_times_of_20(apart, spread, good, bad):
    """Of 1,000 draws each. AUROC's is made for like spreads: of 4,000 draws 93 % where they differ by 2, up to 98 % near 1."""
    rng = np.random.default_rng(1)
    size = max(good, bad)
    evidence = rng.normal(size=(1000, 2, size)) * np.array([1.0, spread])[:, None] + np.array([0.0, apart])[:, None]
    counted = np.arange(size) < np.array([good, bad])[:, None]
    got = many(jnp.asarray(evidence, jnp.float32), jnp.broadcast_to(jnp.asarray(counted), (1000, 2, size)))
    truths = norm.cdf(apart / (1 + spread**2) ** 0.5), apart / ((1 + spread**2) / 2) ** 0.5
    for truth, interval in zip(truths, (got.auroc_interval, got.d_prime_interval), strict=True):
        covered = np.mean((interval[:, 0] <= truth) & (truth <= interval[:, 1]))
        assert 0.915 < covered < 0.985, (truth, covered)
