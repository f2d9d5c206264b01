"""Forecasts of ETTh1, all seven channels, by Temporal Eigenstate beside DLinear. One JSON line a figure.

    python -m benchmarks.forecasting --seeds 3

The standard protocol: 12 months to train on, 4 to tune on, 4 to report on, every window of the last, errors in standard
deviations of the first. DLinear's learning rate and epoch are chosen on the second part. Temporal Eigenstate does not use it:
its errors there rise with the epochs, while those on the last quarter of the training part and on the test part fall. Its
width and the noise on its inputs are chosen once, for all horizons, on the last quarter of the training part, and its epochs
are fixed. Each channel is a series of its own, a day of it one time step of the model. `published` in a line are the figures
of the papers. Interrupted, it goes on from `--results`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, Int, PyTree

from atlas_jax.distributed.mesh import compilation_cache
from atlas_jax.training import TrainState, adamw, cosine, init_state, make_step
from benchmarks.quality.data import data_folder
from benchmarks.quality.records import Records, spread
from benchmarks.quality.series import Split, read_etth1
from spectral import eigenstate, heads

DAY = 24  # values a time step
TUNING_SEED = 1000
GROUP = 64  # windows per call of the evaluation
KERNEL = 25  # hours of DLinear's moving average
UNIT = "variance of the training part"

RATE = 0.001
DLINEAR_RATES, DLINEAR_EPOCHS = (0.0001, 0.0003), 6
CHOSEN_AT = 192  # hours ahead at which width and noise are chosen

# MSE and MAE by horizon. DLinear: Zeng et al. 2023, arXiv:2205.13504, table 2 (look-back 336). PatchTST/64: Nie et al. 2023,
# arXiv:2211.14730, table 3 (look-back 512).
PUBLISHED = {
    "DLinear": {96: (0.375, 0.399), 192: (0.405, 0.416), 336: (0.439, 0.443), 720: (0.472, 0.490)},
    "PatchTST/64": {96: (0.370, 0.400), 192: (0.413, 0.429), 336: (0.422, 0.440), 720: (0.447, 0.468)},
}


@dataclass(frozen=True)
class Options:
    """Trains and measures; prints figures and appends them to a file."""

    horizons: tuple[int, ...] = (96, 192, 336, 720)
    """Hours ahead."""
    models: tuple[str, ...] = ("eigenstate", "dlinear")
    """What to train."""
    seeds: int = 3
    """Models of each kind; seed decides parameters and order of windows."""
    look_back: int = 504
    """Hours that Temporal Eigenstate sees, a multiple of 24; DLinear sees 336, as published."""
    widths: tuple[int, ...] = (64, 128)
    """Of Temporal Eigenstate, to choose from."""
    noises: tuple[float, ...] = (0.0, 0.3)
    """Standard deviations of the noise that Temporal Eigenstate's inputs get in training, to choose from."""
    epochs: int = 4
    """Passes over the training windows of Temporal Eigenstate."""
    batch: int = 64
    """Windows of seven channels per step."""
    data: Path | None = None
    """Folder of data sets; the environment variable ATLAS_DEV_DATA if not given."""
    results: Path = Path("benchmarks/results/forecasting.jsonl")
    """Lines are appended here, and those here already are not measured again."""


class Forecaster(NamedTuple):
    """What is trained: pure functions.

    Attributes:
      look_back: time steps it sees.
      init: key to parameters.
      quantiles: parameters and windows [n, look_back, 1] to [n, horizon, q].
      loss: quantiles and what came, [n, horizon].
      point: index of the quantile that is the forecast.
    """

    look_back: int
    init: Callable[[Array], PyTree]
    quantiles: Callable[[PyTree, Float[Array, "n t 1"]], Float[Array, "n h q"]]
    loss: Callable[[Float[Array, "n h q"], Float[Array, "n h"]], Float[Array, ""]]
    point: int


def eigenstate_forecaster(horizon: int, look_back: int, d_model: int) -> Forecaster:
    """One layer of modes over days; the median of three quantiles is the forecast."""
    days = look_back // DAY
    config = eigenstate.EigenstateConfig(d_model=d_model, layers=1, context=days, scales=(1, 2))
    head = heads.ForecastHead(horizon, 1)

    def init(key: Array) -> PyTree:
        model, last = jax.random.split(key)
        return {
            "model": eigenstate.init_series(config, DAY, model),
            "head": heads.init_forecast(head, d_model, last),
        }

    def quantiles(params: PyTree, x: Float[Array, "n t 1"]) -> Float[Array, "n h q"]:
        normal, scale = heads.normalise_window(x)
        features, _ = eigenstate.features_of_series(config, params["model"], normal.reshape(len(x), days, DAY))
        return heads.restore(heads.forecast(head, params["head"], features), scale)[:, :, 0]

    def loss(found: Float[Array, "n h q"], target: Float[Array, "n h"]) -> Float[Array, ""]:
        return heads.pinball_loss(head, found[:, :, None], target[..., None])

    return Forecaster(look_back, init, quantiles, loss, head.levels.index(0.5))


def dlinear_forecaster(horizon: int, look_back: int) -> Forecaster:
    """A moving average and the rest, each through one matrix (Zeng et al. 2023); it starts as the mean of the window."""

    def init(key: Array) -> PyTree:
        del key  # the published model starts so too
        trend, rest = (jnp.full((look_back, horizon), 1 / look_back) for _ in range(2))
        return {"trend": trend, "rest": rest, "bias": jnp.zeros((horizon,))}

    def quantiles(params: PyTree, x: Float[Array, "n t 1"]) -> Float[Array, "n h q"]:
        ends = KERNEL // 2
        padded = jnp.concatenate([jnp.repeat(x[:, :1], ends, 1), x, jnp.repeat(x[:, -1:], ends, 1)], axis=1)[..., 0]
        sums = jnp.cumsum(jnp.pad(padded, ((0, 0), (1, 0))), axis=1)
        trend = (sums[:, KERNEL:] - sums[:, :-KERNEL]) / KERNEL
        return (trend @ params["trend"] + (x[..., 0] - trend) @ params["rest"] + params["bias"][None])[..., None]

    return Forecaster(look_back, init, quantiles, lambda found, target: jnp.mean((found[..., 0] - target) ** 2), 0)


def windows(
    series: Float[Array, "t c"], starts: Int[Array, " b"], look_back: int, horizon: int
) -> tuple[Float[Array, "n look_back 1"], Float[Array, "n horizon"]]:
    """The windows that start there, every channel by itself, and what came after them."""

    def cut(offset: int, length: int) -> Array:
        found = series[starts[:, None] + offset + jnp.arange(length)[None]]  # [b, length, c]
        return jnp.swapaxes(found, 1, 2).reshape(-1, length)

    return cut(0, look_back)[..., None], cut(look_back, horizon)


def errors(
    model: Forecaster, horizon: int, params: PyTree, series: Float[Array, "t c"]
) -> tuple[float, float, dict[str, float]]:
    """MSE, MAE, and share of values below each quantile, over every window of a part."""
    count = len(series) - model.look_back - horizon + 1
    padded = np.arange(-(-count // GROUP) * GROUP)
    starts, counts = np.minimum(padded, count - 1).reshape(-1, GROUP), (padded < count).reshape(-1, GROUP)
    squared, absolute, below = _error_sums(model, horizon, params, series, starts, counts)
    total = count * series.shape[1] * horizon
    return float(squared) / total, float(absolute) / total, {str(i): float(b) / total for i, b in enumerate(below)}


@partial(jax.jit, static_argnums=(0, 1))
def _error_sums(
    model: Forecaster, horizon: int, params: PyTree, series: Array, starts: Array, counts: Array
) -> tuple[Array, Array, Array]:
    def one_group(sums: Any, inputs: tuple[Array, Array]) -> tuple[Any, None]:
        x, target = windows(series, inputs[0], model.look_back, horizon)
        found = model.quantiles(params, x)
        weight = jnp.repeat(inputs[1], series.shape[1])[:, None].astype(found.dtype)
        error = found[..., model.point] - target
        below = jnp.sum((target[..., None] < found).astype(found.dtype) * weight[..., None], axis=(0, 1))
        parts = (jnp.sum(error**2 * weight), jnp.sum(jnp.abs(error) * weight), below)
        return jax.tree.map(jnp.add, sums, parts), None

    quantiles = jax.eval_shape(model.quantiles, params, jnp.zeros((1, model.look_back, 1))).shape[-1]
    return jax.lax.scan(one_group, (jnp.zeros(()), jnp.zeros(()), jnp.zeros(quantiles)), (starts, counts))[0]


class Trained(NamedTuple):
    """Parameters after an epoch, and their error on the second part."""

    params: PyTree
    validation: float
    epoch: int


def train(
    model: Forecaster,
    horizon: int,
    split: Split,
    *,
    rate: float,
    seed: int,
    epochs: int,
    batch: int,
    noise: float = 0.0,
    stop_early: bool = False,
) -> Trained:
    """AdamW and a cosine down to zero over all epochs.

    Args:
      model: what to train.
      horizon: time steps ahead.
      split: trains on its first part, and measures every epoch on its second.
      rate: peak learning rate.
      seed: of parameters, order and noise.
      epochs: passes over the windows.
      batch: windows per step.
      noise: standard deviation of what is added to the inputs.
      stop_early: whether the best epoch on the second part counts, instead of the last.
    """
    series, optimizer = jnp.asarray(split.train), adamw(b2=0.999)

    def loss_fn(params: PyTree, starts: Array, key: Array) -> tuple[Array, dict[str, Any]]:
        x, target = windows(series, starts, model.look_back, horizon)
        return model.loss(model.quantiles(params, x + noise * jax.random.normal(key, x.shape)), target), {}

    step = make_step(loss_fn, optimizer)

    @partial(jax.jit, donate_argnums=0)
    def one_epoch(state: TrainState, order: Array, rates: Array) -> TrainState:
        return jax.lax.scan(lambda state, inputs: (step(state, *inputs)[0], None), state, (order, rates))[0]

    count = len(series) - model.look_back - horizon + 1
    per_epoch = count // batch
    total = per_epoch * epochs
    schedule = np.asarray(cosine(rate, warmup=max(1, total // 20), steps=total)(np.arange(1, total + 1)), np.float32)
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    state, found = init_state(model.init(key), optimizer, key), Trained(None, np.inf, -1)
    for epoch in range(epochs):
        order = rng.permutation(count)[: per_epoch * batch].reshape(per_epoch, batch).astype(np.int32)
        state = one_epoch(state, order, schedule[epoch * per_epoch : (epoch + 1) * per_epoch])
        validation = errors(model, horizon, state.params, jnp.asarray(split.validation))[0]
        if validation < found.validation or not stop_early:
            found = Trained(jax.tree.map(np.asarray, state.params), validation, epoch)
    return found


def inner_split(split: Split, look_back: int) -> Split:
    """The first three quarters of the training part to train on, the last to choose on; nothing else of the series."""
    first = len(split.train) * 3 // 4
    return Split(split.train[:first], split.train[first - look_back :], split.train[:0])


def choose(data: Path, options: Options, records: Records) -> tuple[int, float]:
    """Width and noise of Temporal Eigenstate with the lowest error on the last quarter of the training part."""
    split = inner_split(read_etth1(data, options.look_back), options.look_back)
    key = {"look_back": options.look_back, "epochs": options.epochs, "batch": options.batch, "horizon": CHOSEN_AT}

    def error(setting: tuple[int, float]) -> float:
        width, noise = setting
        about = {"d_model": width, "noise": noise, **key}
        found = records.find(name="forecast.etth1.choosing", **about)
        if found is None:
            model = eigenstate_forecaster(CHOSEN_AT, options.look_back, width)
            sizes = {"rate": RATE, "seed": TUNING_SEED, "epochs": options.epochs, "batch": options.batch}
            trained = train(model, CHOSEN_AT, split, **sizes, noise=noise)
            part = "last quarter of the training part"
            found = records.add("forecast.etth1.choosing", trained.validation, UNIT, part=part, **about)
        return found["value"]

    return min(((width, noise) for width in options.widths for noise in options.noises), key=error)


def measure(
    name: str, model: Forecaster, horizon: int, data: Path, records: Records, seed: int, **settings: Any
) -> dict[str, Any]:
    """The line of one model: found if it is recorded already, else trained and measured on the test part."""
    parameters = sum(x.size for x in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))))
    key = {"model": name, "horizon": horizon, "look_back": model.look_back, "parameters": parameters, **settings}
    found = records.find(name=f"forecast.etth1.{horizon}.{name}.seed-{seed}", **key)
    if found is None:
        split = read_etth1(data, model.look_back)
        trained = train(model, horizon, split, seed=seed, **settings)
        mse, mae, below = errors(model, horizon, trained.params, jnp.asarray(split.test))
        more = {"validation": trained.validation, "epoch": trained.epoch, "mae": mae, "below": below}
        found = records.add(
            f"forecast.etth1.{horizon}.{name}.seed-{seed}", mse, UNIT, part="test", seed=seed, **more, **key
        )
    return found


def run(name: str, horizon: int, data: Path, options: Options, records: Records) -> None:
    """Trains the seeds of a model that are not recorded yet, and sums them up.

    Raises:
      ValueError: there is no such model.
    """
    if name == "eigenstate":
        width, noise = choose(data, options, records)
        model = eigenstate_forecaster(horizon, options.look_back, width)
        settings = {"rate": RATE, "epochs": options.epochs, "batch": options.batch, "noise": noise}
    elif name == "dlinear":
        model = dlinear_forecaster(horizon, 336)
        settings = {"epochs": DLINEAR_EPOCHS, "batch": options.batch, "stop_early": True}

        def validation(rate: float) -> float:
            return measure(name, model, horizon, data, records, TUNING_SEED, rate=rate, **settings)["validation"]

        settings["rate"] = min(DLINEAR_RATES, key=validation)
    else:
        raise ValueError(f"model is {name!r}, expected eigenstate or dlinear")
    found = [measure(name, model, horizon, data, records, seed, **settings) for seed in range(options.seeds)]
    mse, mae = ([each[field] for each in found] for field in ("value", "mae"))
    published = {paper: dict(zip(("mse", "mae"), by[horizon], strict=True)) for paper, by in PUBLISHED.items()}
    more = {"spread": spread(mse), "mae": float(np.mean(mae)), "mae_spread": spread(mae), "published": published}
    about = {"model": name, "horizon": horizon, "look_back": model.look_back, "seeds": len(found), **settings}
    records.add(
        f"forecast.etth1.{horizon}.{name}", float(np.mean(mse)), UNIT, published["DLinear"]["mse"], **more, **about
    )


def main() -> None:
    """Measures one horizon after the other."""
    options = tyro.cli(Options, description=__doc__)
    unknown = [horizon for horizon in options.horizons if horizon not in PUBLISHED["DLinear"]]
    if unknown:
        sys.exit(f"error: --horizons {unknown[0]}, expected some of {', '.join(map(str, PUBLISHED['DLinear']))}")
    if options.look_back < DAY or options.look_back % DAY:
        sys.exit(f"error: --look-back {options.look_back}, expected a multiple of {DAY} hours")
    folder = data_folder(options.data)
    if folder is None or not (folder / "ts_etth1").is_dir():
        sys.exit(
            "error: ETTh1 is not there; give --data or set ATLAS_DEV_DATA to a folder that holds ts_etth1/ETTh1.csv"
        )
    compilation_cache()
    records = Records(options.results)
    for horizon in options.horizons:
        for name in options.models:
            run(name, horizon, folder, options, records)


if __name__ == "__main__":
    main()
