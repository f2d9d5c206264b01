"""Groups of rows that belong together, found on a sample's points, and how far any row lies from the nearest of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from validation.diversity.embedding import GRID

MOST_POINTS = 5_000
"""Points that clusters are looked for among; the time grows with their square."""
MOST_CLUSTERS = 48
SMALLEST_SHARE, SMALLEST_SIZE = 0.004, 10  # of a cluster, in points
AXES, KEPT_VARIANCE = 10, 0.95  # principal axes that clusters are looked for in
NEIGHBOUR = 5  # whose distance is a point's density
WIDEST = 2.0  # radius of a cluster, in that of all
RARE = 0.01
"""Share of the rows below which a cluster counts as a rare pattern."""


class Assignment(NamedTuple):
    """Rows and the clusters nearest to them.

    Attributes:
      cluster: index of the nearest centroid.
      score: distance to it over the cluster's radius; 1 is usual, large an outlier.
    """

    cluster: Int[np.ndarray, " rows"]
    score: Float[np.ndarray, " rows"]


@dataclass(frozen=True)
class Clusters:
    """Clusters of a sample; made by `find_clusters`, the largest first.

    Attributes:
      centroids: float64 [clusters, width], multiples of 1/1024.
      radius: median distance of a cluster's points from its centroid, between once and twice that of all points from theirs:
        what lies beside a narrow cluster is no outlier yet, and few far points are no wide cluster.
      share: of the sample's points nearest to each centroid.
      density: 1 / median distance of a cluster's points to their fifth neighbour, within the axes clusters are found in;
        inf where most points coincide.
      noise: share of points that belong to no cluster; 1 where no cluster was found, and all points then make up one.
    """

    centroids: Float[np.ndarray, "clusters width"]
    radius: Float[np.ndarray, " clusters"]
    share: Float[np.ndarray, " clusters"]
    density: Float[np.ndarray, " clusters"]
    noise: float

    def assign(self, points: Float[np.ndarray, "rows width"]) -> Assignment:
        """The nearest cluster of each point, and how far outside of it the point lies.

        Args:
          points: multiples of 1/1024, as `Embedding.embed` gives them: sums are then exact, and the result is the same
            however rows are cut into batches.
        """
        points = points.astype(np.float64)
        relative = (-2 * self.centroids) @ points.T  # squared distances, less the point's own square
        relative += (self.centroids**2).sum(axis=1)[:, None]
        nearest, least = np.zeros(len(points), np.int8), relative[0]
        for cluster in range(1, len(relative)):  # several times as fast as argmin over a short axis
            np.copyto(nearest, cluster, where=relative[cluster] < least)
            np.minimum(least, relative[cluster], out=least)
        least += np.einsum("rw,rw->r", points, points)
        return Assignment(nearest.astype(np.int64), np.sqrt(np.maximum(least, 0)) / self.radius[nearest])

    @property
    def rare_share(self) -> float:
        """Share of rows nearest to a cluster of less than 1 % of them."""
        return float(self.share[self.share < RARE].sum())


def find_clusters(points: Float[np.ndarray, "rows width"]) -> Clusters:
    """Finds groups by density, whatever their number; points between them are noise.

    Args:
      points: of a sample in random order, as `Embedding.embed` gives them; beyond 5,000 the first ones are searched, and
        shares and radii come from all.

    Returns:
      At most 48 clusters, the largest.

    Raises:
      ValueError: there is no point.

    Source: HDBSCAN (Campello, Moulavi, Sander 2013), scikit-learn's, on the principal axes that hold 95 % of the variance
    (at most 10), since distances in many dimensions hardly differ.
    """
    if not len(points):
        raise ValueError("points: none; expected at least one")
    searched = _principal(points[:MOST_POINTS])
    labels = _labels(searched)
    names, sizes = np.unique(labels[labels >= 0], return_counts=True)
    names = names[np.argsort(-sizes, kind="stable")][:MOST_CLUSTERS]
    members = [labels == name for name in names] or [np.ones(len(labels), bool)]
    noise = 1 - float(np.isin(labels, names).mean())
    centroids = np.stack([points[: len(labels)][one].mean(axis=0, dtype=np.float64) for one in members])
    centroids = np.rint(centroids * GRID) / GRID
    neighbour = _neighbour_distance(searched)
    with np.errstate(divide="ignore"):
        density = np.array([1 / np.median(neighbour[one]) for one in members])
    unscaled = Clusters(centroids, np.ones(len(centroids)), np.ones(len(centroids)), density, noise)
    nearest, distance = unscaled.assign(points)
    typical = [np.median(distance[nearest == c]) if (nearest == c).any() else 0.0 for c in range(len(centroids))]
    usual = max(float(np.median(distance)), 1 / GRID)
    radius = np.clip(typical, usual, WIDEST * usual)
    share = np.bincount(nearest, minlength=len(centroids)) / len(points)
    order = np.argsort(-share, kind="stable")
    return Clusters(centroids[order], radius[order], share[order], density[order], noise)


def _labels(searched: Float[np.ndarray, "rows axes"]) -> Int[np.ndarray, " rows"]:
    """HDBSCAN's cluster of each point, -1 for noise."""
    smallest = max(SMALLEST_SIZE, round(SMALLEST_SHARE * len(searched)))
    if len(searched) < 2 * smallest:
        return np.full(len(searched), -1)
    from sklearn.cluster import HDBSCAN  # late: it takes a second to import

    finder = HDBSCAN(min_cluster_size=smallest, min_samples=NEIGHBOUR, copy=True)  # pyright: ignore[reportArgumentType]
    return finder.fit_predict(searched)


def _principal(points: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows axes"]:
    """Coordinates on the principal axes."""
    centered = points - points.mean(axis=0, dtype=np.float64)
    variances, axes = np.linalg.eigh(centered.T @ centered)
    variances, axes = np.maximum(variances[::-1], 0), axes[:, ::-1]
    total = variances.sum()
    needed = 1 if total == 0 else int(np.searchsorted(np.cumsum(variances), KEPT_VARIANCE * total)) + 1
    return centered @ axes[:, : min(needed, AXES)]


def _neighbour_distance(searched: Float[np.ndarray, "rows axes"]) -> Float[np.ndarray, " rows"]:
    """Distance of each point to its fifth neighbour, or the farthest there is."""
    from scipy.spatial import KDTree

    order = min(NEIGHBOUR + 1, len(searched))  # a point is its own first neighbour
    distances, _ = KDTree(searched).query(searched, k=np.array([order]))  # pyright: ignore[reportArgumentType]
    return np.asarray(distances)[:, 0]
