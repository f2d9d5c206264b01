"""Planted groups are found, rows go to the nearest of them, and outliers score highest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from validation.diversity.clusters import Clusters, find_clusters


def on_grid(points):
    return (np.rint(np.asarray(points) * 1024) / 1024).astype(np.float32)


@pytest.fixture(scope="module")
def planted():
    """Three groups of 60, 39 and 1 %, far apart."""
    rng = np.random.default_rng(0)
    group = rng.choice(3, 3_000, p=[0.6, 0.39, 0.01])
    centers = np.array([[0, 0, 0, 0], [12, 0, 0, 0], [0, 12, 12, 0]])
    return on_grid(centers[group] + rng.normal(size=(3_000, 4)) * np.array([[1], [0.5], [0.2]])[group]), group


def test_planted_groups_are_found(planted):
    points, group = planted
    clusters = find_clusters(points)
    found = clusters.assign(points)
    largest = [np.bincount(found.cluster[group == g]).argmax() for g in range(3)]
    assert len(set(largest)) == 3
    for g, cluster in enumerate(largest):
        assert (found.cluster[group == g] == cluster).mean() > 0.95
    assert clusters.share.sum() == pytest.approx(1)
    assert np.all(np.diff(clusters.share) <= 0)
    assert clusters.density[largest[1]] > clusters.density[largest[0]]
    assert 0 <= clusters.noise < 0.35


def test_outliers_score_above_everyone(planted):
    points, _ = planted
    clusters = find_clusters(points)
    usual = clusters.assign(points).score
    assert 0.5 < np.median(usual) < 2
    assert clusters.assign(on_grid([[0, 40, -40, 0], [6, -30, 0, 9]])).score.min() > usual.max()


def test_rare_share_is_that_of_small_clusters():
    clusters = Clusters(np.zeros((3, 1)), np.ones(3), np.array([0.985, 0.009, 0.006]), np.ones(3), 0.0)
    assert clusters.rare_share == pytest.approx(0.015)


def test_without_groups_all_points_are_one():
    points = on_grid(np.random.default_rng(0).uniform(size=(15, 3)))
    clusters = find_clusters(points)
    assert len(clusters.share) == 1
    assert clusters.noise == 1
    assert set(clusters.assign(points).cluster) == {0}


def test_equal_rows_are_a_cluster_of_infinite_density():
    points = on_grid(np.repeat([[0.0, 1.0], [5.0, 5.0]], 200, axis=0))
    clusters = find_clusters(points)
    assert sorted(clusters.centroids.tolist()) == [[0.0, 1.0], [5.0, 5.0]]
    assert np.isinf(clusters.density).all()
    assert clusters.assign(points).score.max() == 0


@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_nearest_centroid_is_that_of_brute_force_and_of_any_batch(width, rows, seed):
    rng = np.random.default_rng(seed)
    points, centroids = on_grid(rng.normal(size=(rows, width)) * 5), on_grid(rng.normal(size=(5, width)) * 5)
    radius = rng.uniform(0.1, 2, 5)
    clusters = Clusters(centroids.astype(np.float64), radius, np.full(5, 0.2), np.ones(5), 0.0)
    distance = np.linalg.norm(points[:, None].astype(np.float64) - centroids[None], axis=2)
    found = clusters.assign(points)
    assert found.cluster.tolist() == distance.argmin(axis=1).tolist()
    assert found.score == pytest.approx(distance.min(axis=1) / radius[found.cluster], abs=1e-9)
    singly = [clusters.assign(points[i : i + 1]) for i in range(rows)]
    assert np.array_equal(np.concatenate([one.score for one in singly]), found.score)


def test_no_points_are_refused():
    with pytest.raises(ValueError, match="points: none"):
        find_clusters(np.empty((0, 3), np.float32))
