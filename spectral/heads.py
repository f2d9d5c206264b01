"""Heads for time series on the features of a causal model: forecasts with quantiles, and anomaly scores.

A forecast reads the features of the last time step of a window, whose own mean and size were taken out and are put back.
An anomaly score is the error of the prediction one step ahead, in units of the errors so far; it streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from atlas_jax.nn import linear
from atlas_jax.types import PyTree

SMALLEST = 1e-5  # added to a window's deviation: a constant window is divided by this and no more


class WindowScale(NamedTuple):
    """What was taken out of a window."""

    center: Float[Array, "b c"]
    size: Float[Array, "b c"]


def normalise_window(x: Float[Array, "b t c"]) -> tuple[Float[Array, "b t c"], WindowScale]:
    """Each channel with its mean over the window taken out, over its deviation; nothing outside the window is used.

    Source: Kim et al. 2022, Reversible Instance Normalization, without the learned scale.
    """
    return _scaled(x, jnp.mean(x, axis=1))


def normalise_from_last(x: Float[Array, "b t c"]) -> tuple[Float[Array, "b t c"], WindowScale]:
    """As `normalise_window`, with the last value taken out instead of the mean: for series that wander.

    Source: Zeng et al. 2023, NLinear, arXiv:2205.13504.
    """
    return _scaled(x, x[:, -1])


def _scaled(x: Array, center: Array) -> tuple[Array, WindowScale]:
    size = jnp.std(x, axis=1) + SMALLEST
    return (x - center[:, None]) / size[:, None], WindowScale(center, size)


def restore(values: Float[Array, "b horizon c q"], scale: WindowScale) -> Float[Array, "b horizon c q"]:
    """Forecasts in the unit of the window: the inverse of `normalise_window` and `normalise_from_last`."""
    return values * scale.size[:, None, :, None] + scale.center[:, None, :, None]


@dataclass(frozen=True)
class ForecastHead:
    """What is to be foretold; static under jit.

    Attributes:
      horizon: time steps ahead.
      channels: values a time step.
      levels: of the quantiles, ascending, with the median 0.5 among them: it is the point forecast.

    Raises:
      ValueError: a size is not positive, or the levels are not ascending between 0 and 1 with 0.5 among them.
    """

    horizon: int
    channels: int
    levels: tuple[float, ...] = (0.1, 0.5, 0.9)

    def __post_init__(self) -> None:
        for name in ("horizon", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"ForecastHead.{name} is {getattr(self, name)}, expected at least 1")
        edges = (0.0, *self.levels, 1.0)
        if 0.5 not in self.levels or any(low >= high for low, high in pairwise(edges)):
            raise ValueError(f"ForecastHead.levels is {self.levels}, expected ascending levels inside (0, 1) with 0.5")


def init_forecast(head: ForecastHead, d_model: int, key: Array) -> PyTree:
    """Fresh float32 parameters: whatever the features say, nearly the quantiles of a standard normal at the start."""
    outputs = (head.horizon, head.channels, len(head.levels))
    normal = np.array([NormalDist().inv_cdf(level) for level in head.levels])
    gaps, median = np.diff(normal), head.levels.index(0.5)
    start = np.insert(np.log(np.expm1(gaps)), median, 0.0)
    return {
        "weight": jax.random.normal(key, (d_model, *outputs)) * 0.1 * d_model**-0.5,
        "bias": jnp.broadcast_to(jnp.asarray(start, jnp.float32), outputs),
    }


def forecast(head: ForecastHead, params: PyTree, features: Float[Array, "b t d"]) -> Float[Array, "b horizon c q"]:
    """Quantiles of every channel at every step of the horizon, from the features of the window's last step.

    The median is free, the others are sums of positive gaps away from it, so that no two quantiles cross.

    Args:
      head: what is foretold.
      params: from `init_forecast`.
      features: of the whole window, from `features_of_series`.

    Returns:
      In the unit of the model's input; `restore` gives them that of the series.

    Raises:
      ValueError: the parameters are those of another head or another width of features.
    """
    expected = (features.shape[-1], head.horizon, head.channels, len(head.levels))
    if params["weight"].shape != expected:
        raise ValueError(
            f"params['weight'] of the forecast has shape {params['weight'].shape}, expected {expected}: width of the "
            "features, horizon, channels, levels"
        )
    weight = params["weight"].reshape(expected[0], -1)
    raw = linear(features[:, -1], weight.astype(features.dtype)).reshape(-1, *expected[1:])
    raw = raw.astype(params["bias"].dtype) + params["bias"][None]
    median = head.levels.index(0.5)
    gaps = jax.nn.softplus(raw)
    quantiles = [raw[..., median]]
    # Step by step, and not as a cumulative sum: its order of rounding could make two neighbours cross.
    for n in range(median + 1, len(head.levels)):
        quantiles.append(quantiles[-1] + gaps[..., n])
    for n in range(median - 1, -1, -1):
        quantiles.insert(0, quantiles[0] - gaps[..., n])
    return jnp.stack(quantiles, axis=-1)


def point_forecast(head: ForecastHead, quantiles: Float[Array, "b horizon c q"]) -> Float[Array, "b horizon c"]:
    """The median."""
    return quantiles[..., head.levels.index(0.5)]


def pinball_loss(
    head: ForecastHead, quantiles: Float[Array, "b horizon c q"], target: Float[Array, "b horizon c"]
) -> Float[Array, ""]:
    """Mean of level * error above a quantile and (1 - level) * error below it, whose minimum is at the quantiles.

    Source: Koenker and Bassett 1978, Regression Quantiles. With the level 0.5 alone it is half of the mean absolute error.
    """
    levels = jnp.asarray(head.levels, quantiles.dtype)[None, None, None]
    error = target[..., None] - quantiles
    return jnp.mean(jnp.maximum(levels * error, (levels - 1) * error))


def init_prediction(channels: int, d_model: int, key: Array) -> PyTree:
    """Fresh float32 parameters of `predict_next`."""
    return {"weight": jax.random.normal(key, (d_model, channels)) * 0.1 * d_model**-0.5, "bias": jnp.zeros((channels,))}


def predict_next(params: PyTree, features: Float[Array, "b t d"], x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
    """At every time step the next value: this one, and what the features say of the change.

    Args:
      params: from `init_prediction`.
      features: of the time steps, from `features_of_series`.
      x: the series that was the model's input.

    Raises:
      ValueError: the parameters are those of other features or channels.
    """
    expected = (features.shape[-1], x.shape[-1])
    if params["weight"].shape != expected:
        raise ValueError(
            f"params['weight'] of the prediction has shape {params['weight'].shape}, expected {expected}: width of the "
            "features, channels"
        )
    change = linear(features, params["weight"].astype(features.dtype)).astype(x.dtype)
    return x + change + params["bias"][None, None].astype(x.dtype)


@dataclass(frozen=True)
class AnomalyScale:
    """How the errors so far become a scale; static under jit.

    Attributes:
      memory: time steps over which older errors are forgotten.
      warm_up: errors that are only learned from, and score 0.
      limit: an error counts for at most this many times the scale, so that an anomaly does not become the new normal at once.
      floor: smallest scale, in the unit of the series; errors far below it are never anomalies.

    Raises:
      ValueError: one is too small to mean anything.
    """

    memory: float = 256.0
    warm_up: int = 32
    limit: float = 4.0
    floor: float = 1e-3

    def __post_init__(self) -> None:
        for name, least in (("memory", 1), ("warm_up", 1), ("limit", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"AnomalyScale.{name} is {getattr(self, name)}, expected at least {least}")
        if not self.floor > 0:
            raise ValueError(f"AnomalyScale.floor is {self.floor}, expected more than 0")


class AnomalyState(NamedTuple):
    """What the score remembers, in the dtype of the series.

    Attributes:
      prediction: [b, c], of the value to come.
      scale: [b, c], running mean of the absolute errors; 0 before the first.
      errors: [b], how many of them there were, kept as a float; -1 before the first value.
    """

    prediction: Float[Array, "b c"]
    scale: Float[Array, "b c"]
    errors: Float[Array, " b"]


def init_anomaly(batch: int, channels: int) -> AnomalyState:
    """The state before the first value, float32."""
    return AnomalyState(jnp.zeros((batch, channels)), jnp.zeros((batch, channels)), jnp.full((batch,), -1.0))


def anomaly_scores(
    settings: AnomalyScale,
    predictions: Float[Array, "_ _ _"],
    x: Float[Array, "b t c"],
    state: AnomalyState,
) -> tuple[Float[Array, "b t"], AnomalyState]:
    """How far each value is from what was predicted for it one step before, in deviations of the errors so far.

    Args:
      settings: of the scale.
      predictions: [b, t, c] of the value after each, from `predict_next`.
      x: the values.
      state: where an earlier call stopped, or `init_anomaly`.

    Returns:
      For each time step the largest score of its channels, about |z| for normal errors, 0 until `warm_up` errors are known;
      and the state after the last.

    Raises:
      ValueError: the predictions, or the state, are those of another series.
    """
    if predictions.shape != x.shape:
        raise ValueError(f"predictions have shape {predictions.shape}, expected {x.shape} like the series")
    if state.scale.shape != (x.shape[0], x.shape[2]):
        raise ValueError(
            f"AnomalyState.scale has shape {state.scale.shape}, expected {(x.shape[0], x.shape[2])}: batch, channels"
        )

    def one(state: AnomalyState, now: tuple[Array, Array]) -> tuple[AnomalyState, Array]:
        value, prediction = now
        errors, error = state.errors + 1, jnp.abs(value - state.prediction)
        scale = jnp.maximum(state.scale, settings.floor)
        warm = (state.errors >= settings.warm_up)[:, None]
        # The mean absolute value of a normal variable is sqrt(2 / pi) deviations.
        score = jnp.where(warm, error / scale * float(np.sqrt(2 / np.pi)), 0.0)
        counted = jnp.where(warm, jnp.minimum(error, settings.limit * scale), error)
        weight = jnp.where(errors > 0, jnp.maximum(1 / jnp.maximum(errors, 1), 1 / settings.memory), 0.0)
        after = AnomalyState(prediction, state.scale + weight[:, None] * (counted - state.scale), errors)
        return after, jnp.max(score, axis=-1)

    state, scores = jax.lax.scan(one, state, (jnp.swapaxes(x, 0, 1), jnp.swapaxes(predictions, 0, 1)))
    return scores.T, state
