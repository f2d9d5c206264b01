"""Effective rank and Vendi score against their n × n definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from validation.diversity.spread import effective_rank, moments, vendi_score

POINTS = arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.integers(-3, 3).map(float))


def exp_entropy(values):
    values = values[values > 1e-9]
    return np.exp(-(values * np.log(values)).sum())


def vendi_by_definition(points):
    """e to the entropy of the eigenvalues of K/n, K the cosines, points at 0 alike among themselves only."""
    n = len(points)
    kernel = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            a, b = np.linalg.norm(points[i]), np.linalg.norm(points[j])
            kernel[i, j] = points[i] @ points[j] / (a * b) if a and b else float(a == b)
    return exp_entropy(np.linalg.eigvalsh(kernel / n))


@given(points=POINTS)
@settings(max_examples=60)
def test_vendi_score_is_that_of_the_kernel_matrix(points):
    assert vendi_score(moments(points)) == pytest.approx(vendi_by_definition(points.astype(np.float64)), rel=1e-5)


@given(points=POINTS)
@settings(max_examples=60)
def test_effective_rank_is_that_of_the_centered_rows_singular_values(points):
    singular = np.linalg.svd(points - points.mean(axis=0, dtype=np.float64), compute_uv=False) ** 2
    expected = exp_entropy(singular / singular.sum()) if singular.sum() > 1e-9 else 0.0
    assert effective_rank(moments(points)) == pytest.approx(expected, rel=1e-4)


def test_batches_add_up():
    points = np.random.default_rng(0).normal(size=(1_000, 5)).astype(np.float32)
    parts = moments(points[:300]).merge(moments(points[300:]))
    assert vendi_score(parts) == pytest.approx(vendi_score(moments(points)))
    assert effective_rank(parts) == pytest.approx(effective_rank(moments(points)))


def test_known_values():
    assert effective_rank(moments(np.outer(np.arange(9.0), [1.0, 2.0]))) == pytest.approx(1)
    assert effective_rank(moments(np.vstack([np.eye(3), -np.eye(3)]))) == pytest.approx(3)
    assert vendi_score(moments(np.eye(4))) == pytest.approx(4)
    assert vendi_score(moments(np.ones((7, 3)))) == pytest.approx(1)
    assert np.isnan(vendi_score(moments(np.empty((0, 3)))))
    assert np.isnan(effective_rank(moments(np.empty((0, 3)))))
