"""Groups, outliers and directions of rows whose groups, outliers and directions are known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.validation.profile.test_findings import profiled
from validation.profile import features
from validation.profile.geometry import geometry, spread

CENTRES = np.array([[0.0, 0.0, 0.0], [6.0, 0.0, 3.0], [0.0, 6.0, -3.0]])


def blobs(rows=3_000, far=6):
    """Three groups of 60, 30 and 10 % in three numbers; the last rows lie far from all of them."""
    rng = np.random.default_rng(0)
    group = rng.choice(3, rows, p=[0.6, 0.3, 0.1])
    points = CENTRES[group] + 0.4 * rng.normal(size=(rows, 3))
    if far:
        points[-far:] = 40 * rng.choice([-1, 1], size=(far, 3))
    return group, profiled({name: np.ascontiguousarray(points[:, i]) for i, name in enumerate("xyz")})


def test_groups_have_their_shares_and_their_most_typical_rows():
    group, profile = blobs()
    found = geometry(profile)
    assert found is not None
    assert [round(one.share, 1) for one in found.groups] == [0.6, 0.3, 0.1]
    assert [group[one.row - 1] for one in found.groups] == [0, 1, 2]
    assert found.noise < 0.1
    assert found.left_out == ()


def test_outliers_are_the_rows_that_lie_far():
    _, profile = blobs()
    _, without = blobs(far=0)
    clean, damaged = geometry(without), geometry(profile)
    assert clean is not None
    assert damaged is not None
    assert damaged.outlier_share - clean.outlier_share == pytest.approx(6 / 3_000, rel=0.2)


def test_directions_are_counted():
    rng = np.random.default_rng(1)
    one = rng.normal(size=4_000)
    line = spread(profiled({"x": one, "y": 2 * one, "z": -one}))
    ball = spread(profiled({name: rng.normal(size=4_000) for name in "xyz"}))
    assert line.width == ball.width == 3
    assert line.effective_rank == pytest.approx(1, abs=0.01)
    assert ball.effective_rank == pytest.approx(3, abs=0.05)
    assert line.vendi_score < 1.2
    assert ball.vendi_score > 2.9


def test_features_are_shares_of_what_there_could_be():
    _, profile = blobs()
    found, figures = features(profile), spread(profile)
    assert found["row_effective_rank_share"] == pytest.approx(figures.effective_rank / 3)
    assert found["row_vendi_share"] == pytest.approx(figures.vendi_score / 4)


def test_rows_that_nothing_tells_apart_have_no_geometry():
    profile = profiled({"x": np.ones(500)})
    assert geometry(profile) is None
    assert np.isnan(features(profile)["row_effective_rank_share"])
    assert np.isnan(features(profile)["row_vendi_share"])
