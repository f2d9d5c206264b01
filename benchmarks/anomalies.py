"""Anomaly scores on the Numenta Anomaly Benchmark: Temporal Eigenstate, a rolling z-score, an isolation forest.

    python -m benchmarks.anomalies --seeds 3

Every detector learns from the first 15 % of a series, unlabelled, and scores the rest in order of time, each value from what
came before. A value counts as anomalous inside a labelled window. Threshold, and over how many values scores are averaged,
are chosen on half of the series by F1 and reported on the other half, then the other way round. AUPRC is the area under the
precision-recall curve, mean of the two halves. One JSON line a figure; the isolation forest needs scikit-learn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Bool, Float, PyTree

from atlas_jax.distributed.mesh import compilation_cache
from atlas_jax.training import TrainState, adamw, cosine, init_state, make_step
from benchmarks.quality.data import data_folder
from benchmarks.quality.records import Records, spread
from benchmarks.quality.series import Labelled, read_nab
from spectral import eigenstate, heads

WIDTHS = (1, 8, 32, 128)  # values that scores are averaged over, back from each
LINEAR = (
    4.0  # deviations; beyond them values are compressed to their logarithm, so that no series decides the others' model
)
WINDOW = 256  # values of the rolling z-score
LAGS = 8  # values that the forest sees at once
FLAT = 0.01  # of its level: the unit of a series whose first part is constant
Scores = list[Float[np.ndarray, " t"]]


@dataclass(frozen=True)
class Options:
    """Scores and measures; prints figures and appends them to a file."""

    detectors: tuple[str, ...] = ("eigenstate", "rolling z-score", "isolation forest")
    """What to measure."""
    seeds: int = 3
    """Of each detector that is random."""
    steps: int = 300
    """Optimizer steps of Temporal Eigenstate."""
    d_model: int = 16
    """Its width."""
    rate: float = 0.01
    """Its learning rate."""
    data: Path | None = None
    """Folder of data sets; the environment variable ATLAS_DEV_DATA if not given."""
    results: Path = Path("benchmarks/results/anomalies.jsonl")
    """Lines are appended here, and those here already are not measured again."""


def standardise(one: Labelled) -> Float[np.ndarray, " t"]:
    """The series in deviations of its first part from its first part's mean, large ones compressed."""
    first = one.values[: one.start]
    center, size = first.mean(), max(first.std(), FLAT * max(abs(first.mean()), 1e-9))
    values = (one.values - center) / size
    beyond = np.maximum(np.abs(values) - LINEAR, 0.0)
    return np.sign(values) * (np.minimum(np.abs(values), LINEAR) + np.log1p(beyond))


def eigenstate_scores(series: Sequence[Labelled], options: Options, seed: int) -> Scores:
    """One model of all series, trained to foretell the next value of their first parts; `heads.anomaly_scores`."""
    longest = max(len(one.values) for one in series)
    values, known = np.zeros((len(series), longest, 1), np.float32), np.zeros((len(series), longest), np.float32)
    for index, one in enumerate(series):
        values[index, : len(one.values), 0] = standardise(one)
        known[index, 1 : one.start] = 1
    config = eigenstate.EigenstateConfig(d_model=options.d_model, layers=1, heads=2, scales=(1,), context=longest)
    first, optimizer = max(one.start for one in series), adamw()

    def predictions(params: PyTree, x: Float[Array, "b t 1"]) -> Float[Array, "b t 1"]:
        features, _ = eigenstate.features_of_series(config, params["model"], x)
        return heads.predict_next(params["head"], features, x)

    def loss_fn(params: PyTree, batch: tuple[Array, Array], key: Array) -> tuple[Array, dict[str, Any]]:
        del key  # nothing in the model is random
        x, counts = batch
        error = jnp.abs(predictions(params, x)[:, :-1, 0] - x[:, 1:, 0])
        return jnp.sum(error * counts[:, 1:]) / jnp.sum(counts[:, 1:]), {}

    step, batch = make_step(loss_fn, optimizer), (jnp.asarray(values[:, :first]), jnp.asarray(known[:, :first]))

    @partial(jax.jit, donate_argnums=0)
    def train(state: TrainState, rates: Array) -> TrainState:
        return jax.lax.scan(lambda state, rate: (step(state, batch, rate)[0], None), state, rates)[0]

    key, model, head = jax.random.split(jax.random.key(seed), 3)
    params = {
        "model": eigenstate.init_series(config, 1, model),
        "head": heads.init_prediction(1, options.d_model, head),
    }
    schedule = cosine(options.rate, warmup=max(1, options.steps // 20), steps=options.steps)
    rates = jnp.asarray(np.asarray(schedule(np.arange(1, options.steps + 1))), jnp.float32)
    trained = train(init_state(params, optimizer, key), rates).params

    @jax.jit
    def score(params: PyTree, x: Float[Array, "b t 1"]) -> Float[Array, "b t"]:
        start = heads.init_anomaly(len(series), 1)
        return heads.anomaly_scores(heads.AnomalyScale(), predictions(params, x), x, start)[0]

    scores = np.asarray(score(trained, jnp.asarray(values)))
    return [row[: len(one.values)] for row, one in zip(scores, series, strict=True)]


def rolling_scores(series: Sequence[Labelled], options: Options, seed: int) -> Scores:
    """|value - mean| / deviation of the 256 values before."""
    del options, seed  # nothing to choose, nothing random
    found = []
    for one in series:
        values = standardise(one)
        sums, squares = (np.concatenate([[0.0], np.cumsum(part)]) for part in (values, values**2))
        end = np.arange(1, len(values))
        start = np.maximum(0, end - WINDOW)
        mean = (sums[end] - sums[start]) / (end - start)
        deviation = np.sqrt(np.maximum((squares[end] - squares[start]) / (end - start) - mean**2, 0)) + 1e-3
        found.append(np.concatenate([[0.0], np.abs(values[1:] - mean) / deviation]))
    return found


def forest_scores(series: Sequence[Labelled], options: Options, seed: int) -> Scores:
    """An isolation forest (Liu et al. 2008) for each series, on eight values at a time."""
    from sklearn.ensemble import IsolationForest  # pyright: ignore[reportMissingImports] (no dependency of the project)

    del options
    found = []
    for one in series:
        values = standardise(one)
        padded = np.concatenate([np.repeat(values[:1], LAGS - 1), values])
        seen = np.lib.stride_tricks.sliding_window_view(padded, LAGS)
        forest = IsolationForest(n_estimators=100, random_state=seed).fit(seen[: one.start])
        found.append(-forest.score_samples(seen))
    return found


DETECTORS: dict[str, tuple[Callable[[Sequence[Labelled], Options, int], Scores], bool]] = {
    "eigenstate": (eigenstate_scores, True),
    "rolling z-score": (rolling_scores, False),
    "isolation forest": (forest_scores, True),
}


def averaged(scores: Float[np.ndarray, " t"], width: int) -> Float[np.ndarray, " t"]:
    """Mean of each score and those before it, `width` in all where there are so many."""
    sums, end = np.concatenate([[0.0], np.cumsum(scores)]), np.arange(1, len(scores) + 1)
    start = np.maximum(0, end - width)
    return (sums[end] - sums[start]) / (end - start)


def average_precision(labels: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> float:
    """Area under the precision-recall curve: mean precision at the thresholds that each anomalous value first passes."""
    order = np.argsort(-scores, kind="stable")
    hits, ends = np.cumsum(labels[order]), np.append(np.diff(scores[order]) != 0, True)  # equal scores pass together
    precision, recall = (hits / np.arange(1, len(hits) + 1))[ends], (hits / max(1, labels.sum()))[ends]
    return float(np.sum(precision * np.diff(recall, prepend=0.0)))


def best_threshold(labels: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The highest F1, and the threshold at and above which a score must be an alarm to reach it."""
    order = np.argsort(-scores, kind="stable")
    hits, alarms = np.cumsum(labels[order]), np.arange(1, len(order) + 1)
    f1 = np.where(np.append(np.diff(scores[order]) != 0, True), 2 * hits / (alarms + labels.sum()), 0.0)
    best = int(np.argmax(f1))
    return float(f1[best]), float(scores[order][best])


def judge(series: Sequence[Labelled], scores: Scores) -> dict[str, float]:
    """F1, AUPRC, and the share of labelled windows with an alarm inside, each half judged by what the other half chose."""

    def pooled(part: Sequence[int], width: int) -> tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        kept = [(series[i].anomalous[series[i].start :], averaged(scores[i], width)[series[i].start :]) for i in part]
        return np.concatenate([labels for labels, _ in kept]), np.concatenate([found for _, found in kept])

    halves = [range(0, len(series), 2), range(1, len(series), 2)]
    hit, alarm, true, areas, windows, noticed = 0, 0, 0, [], 0, 0
    for chosen_on, reported_on in (halves, halves[::-1]):
        width = max(WIDTHS, key=lambda width: best_threshold(*pooled(chosen_on, width))[0])
        threshold = best_threshold(*pooled(chosen_on, width))[1]
        labels, found = pooled(reported_on, width)
        alarms = found >= threshold
        hit, alarm, true = hit + (alarms & labels).sum(), alarm + alarms.sum(), true + labels.sum()
        areas.append(average_precision(labels, found))
        for index in reported_on:
            one = series[index]
            starts = np.flatnonzero(np.diff(one.anomalous, prepend=False) & one.anomalous)
            ends = np.flatnonzero(np.diff(one.anomalous, append=False) & one.anomalous) + 1
            loud = averaged(scores[index], width) >= threshold
            windows += len(starts)
            noticed += sum(bool(loud[start:end].any()) for start, end in zip(starts, ends, strict=True))
    return {
        "f1": float(2 * hit / max(1, alarm + true)),
        "auprc": float(np.mean(areas)),
        "precision": float(hit / max(1, alarm)),
        "recall": float(hit / max(1, true)),
        "windows_noticed": noticed / max(1, windows),
        "anomalous_share": float(np.mean(np.concatenate([one.anomalous[one.start :] for one in series]))),
    }


def main() -> None:
    """Measures one detector after the other."""
    options = tyro.cli(Options, description=__doc__)
    unknown = [name for name in options.detectors if name not in DETECTORS]
    if unknown:
        sys.exit(f"error: --detectors {unknown[0]!r}, expected some of {', '.join(DETECTORS)}")
    folder = data_folder(options.data)
    if folder is None or not (folder / "ts_nab").is_dir():
        sys.exit("error: the series are not there; give --data or set ATLAS_DEV_DATA to a folder that holds ts_nab")
    compilation_cache()
    records, series = Records(options.results), read_nab(folder)
    for detector in options.detectors:
        scores, random = DETECTORS[detector]
        found = []
        for seed in range(options.seeds if random else 1):
            key = {"detector": detector, "seed": seed, "series": len(series)}
            key |= {"steps": options.steps, "d_model": options.d_model, "rate": options.rate} if random else {}
            line = records.find(name=f"anomalies.nab.{detector}.seed-{seed}", **key)
            if line is None:
                judged = judge(series, scores(series, options, seed))
                line = records.add(f"anomalies.nab.{detector}.seed-{seed}", judged["auprc"], "AUPRC", **judged, **key)
            found.append(line)
        means = {
            name: float(np.mean([line[name] for line in found]))
            for name in ("f1", "auprc", "precision", "recall", "windows_noticed", "anomalous_share")
        }
        more = {
            "f1_spread": spread([line["f1"] for line in found]),
            "spread": spread([line["auprc"] for line in found]),
        }
        records.add(f"anomalies.nab.{detector}", means["auprc"], "AUPRC", seeds=len(found), **means, **more)


if __name__ == "__main__":
    main()
