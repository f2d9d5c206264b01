"""Projections: fixed, orthogonal, few of them kept, and no vector gets in unchecked."""

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.patterns import projections
from atlas_jax.patterns.projections import KEPT, Projections, orthogonal, project

WIDTH = 32


def widths(kept):
    return [matrix.shape[0] for matrix in kept.matrices]


def test_a_narrow_vector_keeps_lengths_and_angles():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 7))
    pa, kept = project(Projections(), a, WIDTH)
    pb, _ = project(kept, b, WIDTH)
    assert pa.shape == (WIDTH,)
    np.testing.assert_allclose([pa @ pa, pa @ pb, pb @ pb], [a @ a, a @ b, b @ b], rtol=1e-5)


def test_a_wide_vector_keeps_its_length_on_average():
    matrix = orthogonal(500, WIDTH)
    np.testing.assert_allclose(matrix.T @ matrix, 500 / WIDTH * np.eye(WIDTH), atol=1e-9)
    x = np.random.default_rng(0).standard_normal((400, 500))
    ratio = np.linalg.norm(x @ matrix, axis=1) / np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(ratio.mean(), 1, atol=0.02)
    assert ratio.std() < 1.1 / (2 * WIDTH) ** 0.5


@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (5, 7)])
def test_it_is_the_one_with_a_positive_diagonal(rows, columns):
    """By Cholesky's way: A = Q R with R^T R = A^T A, whatever signs a library's QR gives."""
    a = np.random.default_rng([rows, columns]).standard_normal((7, 5))
    q = a @ np.linalg.inv(np.linalg.cholesky(a.T @ a).T)
    np.testing.assert_allclose(orthogonal(rows, columns), q * (7 / 5) ** 0.5 if rows > columns else q.T, atol=1e-12)


def test_one_of_the_memorys_width_is_left_as_it_is():
    x = np.arange(WIDTH)
    got, kept = project(Projections(), x, WIDTH)
    np.testing.assert_array_equal(got, x)
    assert kept == Projections()


def test_the_oldest_goes_and_comes_back_the_same():
    x, kept = np.arange(3.0), Projections()
    first, kept = project(kept, x, WIDTH)
    for width in range(4, 4 + KEPT - 1):
        _, kept = project(kept, np.ones(width), WIDTH)
    assert widths(kept) == list(range(3, 3 + KEPT))
    _, kept = project(kept, x, WIDTH)  # read again: the oldest it remains
    _, kept = project(kept, np.ones(99), WIDTH)
    assert widths(kept) == [*range(4, 3 + KEPT), 99]
    again, kept = project(kept, x, WIDTH)
    np.testing.assert_array_equal(again, first)
    assert len(kept.matrices) == KEPT


def test_a_kept_projection_is_used(monkeypatch):
    _, kept = project(Projections(), np.ones(5), WIDTH)
    monkeypatch.setattr(projections, "orthogonal", None)  # would fail if it were called
    got, after = project(kept, np.ones(5), WIDTH)
    assert after is kept
    np.testing.assert_allclose(jnp.linalg.norm(got), 5**0.5, rtol=1e-6)


def test_two_widths_are_not_made_comparable():
    """What the docstring warns of: equal texts of two embedders are as far apart as unrelated ones, sqrt(2) for length 1."""
    a, _ = project(Projections(), np.ones(60) / 60**0.5, WIDTH)
    b, _ = project(Projections(), np.ones(70) / 70**0.5, WIDTH)
    assert 1 < float(jnp.linalg.norm(a - b)) < 1.8


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        (np.ones((2, 3)), r"shape \(2, 3\), expected one axis of 1 to 4096 numbers"),
        (np.ones(0), r"shape \(0,\), expected one axis"),
        (np.ones(4097), r"shape \(4097,\), expected one axis"),
        (np.array([1.0, np.nan, np.inf]), r"vector\[1\] is nan, expected a finite number"),
        (np.array([1.0, -np.inf]), r"vector\[1\] is -inf"),
        (np.array([1e18, 1.0]), r"length 1e\+18, expected less than 1e\+18"),
    ],
)
def test_what_is_no_vector_does_not_get_in(vector, said):
    with pytest.raises(ValueError, match=said):
        project(Projections(), vector, WIDTH)


def test_room_for_none_is_named():
    with pytest.raises(ValueError, match="kept=0, expected 1 or more"):
        project(Projections(), np.ones(3), WIDTH, kept=0)
