"""The sampled rows as points: how many directions they use, which groups they form, what lies far from all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from validation.diversity.clusters import find_clusters
from validation.diversity.embedding import Embedding
from validation.diversity.spread import effective_rank, moments, vendi_score
from validation.profile.figures import NAN
from validation.profile.state import Profile

FAR = 3.0
"""An outlier lies this many times as far from its group's centroid as the rows of the group usually do."""
SHOWN_GROUPS = 10
PLACES = 2  # leading columns of a sample, that say where a row is


class Spread(NamedTuple):
    """How much the rows differ.

    Attributes:
      width: coordinates of a point, the most that `effective_rank` can be.
      effective_rank: directions that the rows vary in; nan where no column tells rows apart.
      vendi_score: effective number of different rows, 1 where all are alike, at most width + 1.
    """

    width: int
    effective_rank: float
    vendi_score: float


class Group(NamedTuple):
    """Rows that lie together.

    Attributes:
      share: of the sampled rows that are nearest to its centroid.
      density: 1 / distance of a typical row to its fifth neighbour; inf where most rows coincide.
      file, row: of the sampled row nearest to the centroid: what the group is like.
    """

    share: float
    density: float
    file: int
    row: int


class Geometry(NamedTuple):
    """The sampled rows as points.

    Attributes:
      rows: sampled.
      spread: how much they differ.
      groups: the largest first; one that holds all rows where density tells none apart.
      noise: share of rows between the groups; 1 where there are none.
      rare_share: rows of groups below 1 %.
      outlier_share: rows more than `FAR` times as far from their centroid as usual.
      left_out: columns that say nothing about likeness, with the reason.
    """

    rows: int
    spread: Spread
    groups: tuple[Group, ...]
    noise: float
    rare_share: float
    outlier_share: float
    left_out: tuple[tuple[str, str], ...]


def spread(profile: Profile) -> Spread:
    """How much the sampled rows differ, by all columns together."""
    embedding, points = _embedded(profile)
    return _spread(embedding, points)


def geometry(profile: Profile) -> Geometry | None:
    """Groups and outliers among the sampled rows; None where no column tells rows apart."""
    embedding, points = _embedded(profile)
    if embedding is None:
        return None
    clusters = find_clusters(points)
    nearest, score = clusters.assign(points)
    files, rows = (profile.sample.column(place).to_numpy() for place in range(PLACES))
    groups = []
    for index in range(len(clusters.share)):
        members = np.flatnonzero(nearest == index)
        if len(members):
            middle = members[np.argmin(score[members])]
            groups.append(
                Group(
                    float(clusters.share[index]), float(clusters.density[index]), int(files[middle]), int(rows[middle])
                )
            )
    return Geometry(
        rows=len(points),
        spread=_spread(embedding, points),
        groups=tuple(groups),
        noise=clusters.noise,
        rare_share=clusters.rare_share,
        outlier_share=float((score > FAR).mean()),
        left_out=embedding.left_out,
    )


def _embedded(profile: Profile) -> tuple[Embedding | None, np.ndarray]:
    """The map from rows to points and the sample's points, in the sample's order, which is random."""
    table = profile.sample
    table = table.select(list(range(PLACES, table.num_columns)))
    try:
        embedding = Embedding.fit(table, seed=profile.seed)
    except ValueError:  # no rows, or no column that tells them apart: nothing to measure, and no wrong input
        return None, np.zeros((0, 0), np.float32)
    return embedding, embedding.embed(table.combine_chunks().to_batches()[0])


def _spread(embedding: Embedding | None, points: np.ndarray) -> Spread:
    if embedding is None:
        return Spread(0, NAN, NAN)
    sums = moments(points)
    return Spread(embedding.width, effective_rank(sums), vendi_score(sums))
