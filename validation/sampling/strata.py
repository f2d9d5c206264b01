"""Strata: which rows are drawn as one group, made from a first look at the data.

A stratum is a cluster, split by length where rows are texts and by the label where one is named. Combinations that the
first look hardly met are pooled by cluster, so every row of the dataset, met or not, belongs to exactly one stratum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from validation.diversity.clusters import Clusters, find_clusters
from validation.diversity.embedding import Embedding, TextColumn, as_codes, as_dictionary, as_strings
from validation.diversity.word_vectors import byte_lengths

LENGTHS = 4
"""Buckets of equal size that texts are split into by length."""
MOST_LABELS = 32
"""Labels told apart, the most frequent; others count as one."""
FEWEST_SEEN = 8  # rows of a combination in the first look, for it to be a stratum of its own


class Stratum(NamedTuple):
    """What the rows of a stratum have in common.

    Attributes:
      cluster: index of the nearest centroid.
      length: index of the length bucket, shortest first; -1 where lengths are not told apart.
      label: the label; None where labels are not told apart, "*" for those pooled.
      seen: rows in the first look.
      rarest: share of the first look that its cluster has, or its label where that is less.
    """

    cluster: int
    length: int
    label: str | None
    seen: int
    rarest: float


class Places(NamedTuple):
    """Strata and outlier scores of rows."""

    stratum: Int[np.ndarray, " rows"]
    score: Float[np.ndarray, " rows"]


@dataclass(frozen=True)
class Strata:
    """A map from rows to strata; made by `make_strata`.

    Attributes:
      embedding, clusters: where rows lie.
      lengths: bytes of text that separate the length buckets; empty where rows are no texts.
      label: the label column, if one is named.
      labels: the labels told apart.
      strata: all strata.
      table: index of the stratum by cluster, label (the last for all others) and length bucket.
      scores: outlier scores of the first look, ascending.
    """

    embedding: Embedding
    clusters: Clusters
    lengths: Float[np.ndarray, " cuts"]
    label: str | None
    labels: tuple[str, ...]
    strata: tuple[Stratum, ...]
    table: Int[np.ndarray, "clusters labels lengths"]
    scores: Float[np.ndarray, " seen"]

    def encoded(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns that strata and checks need, categories as dictionaries."""
        found = self.embedding.encoded(batch)
        return found if self.label is None else found.append_column(self.label, as_dictionary(batch.column(self.label)))

    def place(self, batch: pa.RecordBatch, coordinates: Float[np.ndarray, "rows full"]) -> Places:
        """The stratum and outlier score of each row; a pure function of the row.

        Args:
          batch: rows, with the columns that the embedding and the label need.
          coordinates: theirs, as `embedding.coordinates` gives them.
        """
        found = self.clusters.assign(self.embedding.project(coordinates))
        _, labels, lengths = self.table.shape
        place = found.cluster
        if labels > 1:
            place = place * labels + _labels_of(batch, self.label, self.labels)
        if lengths > 1:
            place = place * lengths + _lengths_of(batch, self.embedding, self.lengths)
        return Places(self.table.ravel()[place], found.score)


def make_strata(sample: pa.Table, *, label: str | None = None, seed: int = 0, most: int | None = None) -> Strata:
    """Finds strata in a first look.

    Args:
      sample: rows in random order.
      label: a column whose values are to be represented each; it decides strata, not clusters.
      seed: of the embedding.
      most: most strata; above, lengths and labels are told apart no more, then clusters neither. None for any number.

    Raises:
      ValueError: no such label column, or no column that tells rows apart.
    """
    if label is not None and label not in sample.column_names:
        raise ValueError(f"label: no column {label!r}; expected one of {', '.join(sample.column_names)}")
    embedding = Embedding.fit(sample, seed=seed, exclude=() if label is None else (label,))
    whole = sample.combine_chunks().to_batches()[0]
    points = embedding.embed(whole)
    with threadpool_limits(1):  # the number of cores must not decide in which order sums are rounded
        clusters = find_clusters(points)
    found = clusters.assign(points)
    cuts = np.empty(0)
    if any(isinstance(column, TextColumn) for column in embedding.columns):
        cuts = np.unique(np.quantile(_bytes(whole, embedding), np.arange(1, LENGTHS) / LENGTHS)).astype(float)
    labels = () if label is None else _common(whole, label)
    codes = np.stack([found.cluster, _labels_of(whole, label, labels), _lengths_of(whole, embedding, cuts)])
    shape = (len(clusters.share), len(labels) + 1, len(cuts) + 1)
    strata, table = _pooled(codes, shape, label, labels)
    if most is not None and len(strata) > most:
        strata, table = _by_cluster(codes[0], shape)
    if most is not None and len(strata) > most:
        strata, table = [Stratum(-1, -1, None, len(points), 1.0)], np.zeros(shape, np.int64)
    return Strata(embedding, clusters, cuts, label, labels, tuple(strata), table, np.sort(found.score))


def _pooled(
    codes: Int[np.ndarray, "three rows"], shape: tuple[int, int, int], label: str | None, labels: tuple[str, ...]
) -> tuple[list[Stratum], Int[np.ndarray, "clusters labels lengths"]]:
    """A stratum for each combination that was met often enough, and one a cluster for all others of it."""
    counts = np.zeros(shape, np.int64)
    np.add.at(counts, tuple(codes), 1)
    of_cluster, of_label = counts.sum(axis=(1, 2)) / counts.sum(), counts.sum(axis=(0, 2)) / counts.sum()
    strata: list[Stratum] = []
    table = np.empty(shape, np.int64)
    for cluster in range(shape[0]):
        own = np.argwhere(counts[cluster] >= FEWEST_SEEN)
        table[cluster] = len(strata) + len(own)
        for code, length in own:
            table[cluster, code, length] = len(strata)
            name = None if label is None else (*labels, "*")[code]
            rarest = of_cluster[cluster] if label is None else min(of_cluster[cluster], of_label[code])
            at = int(length) if shape[2] > 1 else -1
            strata.append(Stratum(cluster, at, name, int(counts[cluster, code, length]), float(rarest)))
        if len(own) < shape[1] * shape[2]:
            seen = int(counts[cluster].sum() - counts[cluster][tuple(own.T)].sum())
            strata.append(Stratum(cluster, -1, None if label is None else "*", seen, seen / counts.sum()))
    return strata, table


def _by_cluster(
    cluster: Int[np.ndarray, " rows"], shape: tuple[int, int, int]
) -> tuple[list[Stratum], Int[np.ndarray, "clusters labels lengths"]]:
    counts = np.bincount(cluster, minlength=shape[0])
    strata = [Stratum(c, -1, None, int(n), float(n / counts.sum())) for c, n in enumerate(counts)]
    return strata, np.broadcast_to(np.arange(shape[0])[:, None, None], shape).copy()


def _common(batch: pa.RecordBatch, label: str) -> tuple[str, ...]:
    """The most frequent labels; null is none of them."""
    codes, names = as_codes(batch.column(label))
    counts = np.bincount(codes, minlength=len(names))[:-1]
    frequent = np.argsort(-counts, kind="stable")[:MOST_LABELS]
    return tuple(sorted(name for i in frequent if (name := names[i]) is not None))


def _labels_of(batch: pa.RecordBatch, label: str | None, labels: tuple[str, ...]) -> Int[np.ndarray, " rows"]:
    """Index of each row's label in `labels`; of all others, the number of labels."""
    if label is None:
        return np.zeros(batch.num_rows, np.int64)
    indices, names = as_codes(batch.column(label))
    known: dict[str | None, int] = {name: code for code, name in enumerate(labels)}
    return np.array([known.get(name, len(labels)) for name in names])[indices]


def _lengths_of(
    batch: pa.RecordBatch, embedding: Embedding, cuts: Float[np.ndarray, " cuts"]
) -> Int[np.ndarray, " rows"]:
    """Index of each row's length bucket."""
    if not len(cuts):
        return np.zeros(batch.num_rows, np.int64)
    return np.searchsorted(cuts, _bytes(batch, embedding), side="left")


def _bytes(batch: pa.RecordBatch, embedding: Embedding) -> Int[np.ndarray, " rows"]:
    """Bytes of all texts of each row."""
    total = np.zeros(batch.num_rows, np.int64)
    for column in embedding.columns:
        if isinstance(column, TextColumn):
            total += byte_lengths(as_strings(batch.column(column.name)))
    return total
