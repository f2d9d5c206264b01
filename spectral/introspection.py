"""What a trained Resonance model does with frequencies: its filters, its eigenvalues, which bands carry its activations.

These look at a finished pass over a whole sequence, so unlike the model they may use the future.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from atlas_jax.nn import linear
from atlas_jax.types import PyTree
from spectral.convolution import Modes, causal_convolution
from spectral.resonance import EMBEDDING_SCALE, ResonanceConfig, layer_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONCENTRATED = 0.1  # of the frequencies, the strongest


class SpectralMetrics(NamedTuple):
    """Of one set of activations [b, t, d]; powers are of the Fourier transform over time, mean over b and d.

    Attributes:
      energy: mean square of the activations.
      entropy: Shannon entropy of the power over frequencies, over its maximum: 0 is one frequency, 1 is white.
      concentration: share of the power in the strongest tenth of the frequencies.
      variance: mean variance of a channel over batch and time.
      rank: effective rank of the channels, exp of the entropy of the covariance's eigenvalues, 1 to d (Roy and Vetterli 2007).
    """

    energy: float
    entropy: float
    concentration: float
    variance: float
    rank: float


class BandActivity(NamedTuple):
    """By layer and band.

    Attributes:
      energy: share of the layer's band output power, [n, h]; rows sum to 1.
      open: mean share that the band gate lets through, [n, h]; 1 where the model has no band gate.
    """

    energy: Float[np.ndarray, "n h"]
    open: Float[np.ndarray, "n h"]


def eigenvalues(params: PyTree) -> Complex[np.ndarray, "n h m"]:
    """lambda of every mode, layer by layer: all within the unit circle."""
    mixer = params["blocks"]["mixer"]
    rate, frequency = (np.asarray(mixer[name], np.float64) for name in ("log_rate", "frequency"))
    return np.exp(-np.exp(rate) + 1j * frequency)


def filter_responses(params: PyTree, frequencies: Float[np.ndarray, " f"]) -> Float[np.ndarray, "n h f"]:
    """Gain |H| of every band's filter at some frequencies, in closed form.

    H(w) is the transform of Re(sum_m c_m lambda_m**t): half the sum over m of c / (1 - lambda z) and of its conjugate twin, z =
    exp(-i w).

    Args:
      params: of a Resonance model.
      frequencies: radians per token, 0 to pi.
    """
    mixer, root = params["blocks"]["mixer"], eigenvalues(params)[..., None]
    c = (np.asarray(mixer["real"], np.float64) + 1j * np.asarray(mixer["imaginary"], np.float64))[..., None]
    z = np.exp(-1j * frequencies)[None, None, None]
    response = c / (1 - root * z) + c.conj() / (1 - root.conj() * z)
    return np.abs(response.sum(axis=2)) / 2


def layer_outputs(config: ResonanceConfig, params: PyTree, tokens: Int[Array, "b t"]) -> Float[Array, "n b t d"]:
    """The residual stream after every layer: what `spectral_metrics` describes; a pure function, to be jitted.

    Args:
      config, params: of the model.
      tokens: at most `config.context` of them.
    """
    x, layer, outputs = jnp.take(params["embedding"], tokens, axis=0) * EMBEDDING_SCALE, layer_of(config), []
    for index in range(config.layers):
        x, _ = layer.apply({"params": jax.tree.map(lambda leaf, n=index: leaf[n], params["blocks"])}, x, None)  # pyright: ignore[reportGeneralTypeIssues, reportAssignmentType] (nothing is mutable)
        outputs.append(x)
    return jnp.stack(outputs)


def activations(
    config: ResonanceConfig, params: PyTree, tokens: Int[Array, "b t"]
) -> tuple[list[Float[Array, "b t d"]], BandActivity]:
    """What every layer puts out, and how its bands share the work.

    Args:
      config, params: of the model.
      tokens: at most `config.context` of them.
    """
    x = jnp.take(params["embedding"], tokens, axis=0) * EMBEDDING_SCALE
    layer: Any = layer_of(config)
    outputs, energies, opened = [], [], []
    for index in range(config.layers):
        weights = jax.tree.map(lambda leaf, n=index: leaf[n], params["blocks"])
        (x, _), seen = layer.apply({"params": weights}, x, None, capture_intermediates=True, mutable=["intermediates"])
        parts = seen["intermediates"]
        power = np.asarray(_band_power(config, weights["mixer"], parts["mixer_norm"]["__call__"][0]))
        gate = parts["mixer"].get("band_gate")
        outputs.append(x)
        energies.append(power / power.sum())
        opened.append(np.ones(config.heads) if gate is None else np.asarray(gate["__call__"][0][0].mean(axis=(0, 1))))
    return outputs, BandActivity(np.stack(energies), np.stack(opened))


def _band_power(config: ResonanceConfig, weights: PyTree, x: Float[Array, "b t d"]) -> Float[Array, " h"]:
    """Mean square of what each band's filter puts out, before any gate."""
    value = jnp.split(linear(x, weights["in"]), 2, axis=-1)[0].reshape(*x.shape[:2], config.heads, -1)
    modes = Modes(weights["log_rate"], weights["frequency"], weights["real"], weights["imaginary"])
    bands, _ = causal_convolution(value, modes, chunk=config.chunk)
    return jnp.mean(jnp.square(bands), axis=(0, 1, 3))


def spectral_metrics(x: Float[Array | np.ndarray, "b t d"]) -> SpectralMetrics:
    """Energy, entropy, concentration and variance of activations over a whole sequence.

    Args:
      x: activations of at least 2 positions.

    Raises:
      ValueError: fewer than 2 positions.
    """
    values = np.asarray(x, np.float64)
    if values.shape[1] < 2:
        raise ValueError(f"spectral_metrics: activations of {values.shape[1]} position, expected at least 2")
    centred = values - values.mean(axis=1, keepdims=True)
    window = np.hanning(values.shape[1] + 2)[1:-1, None]
    power = np.square(np.abs(np.fft.rfft(centred * window[None], axis=1))).mean(axis=(0, 2))[1:]
    share = power / max(power.sum(), np.finfo(np.float64).tiny)
    strongest = np.sort(share)[::-1][: max(1, round(CONCENTRATED * len(share)))]
    flat = values.reshape(-1, values.shape[-1])
    spread = np.maximum(np.linalg.eigvalsh(np.cov(flat, rowvar=False).reshape(flat.shape[1], -1)), 0)
    return SpectralMetrics(
        energy=float(np.square(values).mean()),
        entropy=_entropy(share) / float(np.log(len(share))) if len(share) > 1 else 0.0,
        concentration=float(strongest.sum()),
        variance=float(flat.var(axis=0).mean()),
        rank=float(np.exp(_entropy(spread / max(spread.sum(), np.finfo(np.float64).tiny)))),
    )


def _entropy(share: Float[np.ndarray, " f"]) -> float:
    """In nats; nothing for shares of 0."""
    positive = share[share > 0]
    return float(-(positive * np.log(positive)).sum())


def figure(config: ResonanceConfig, params: PyTree, tokens: Int[Array, "b t"]) -> Figure:
    """Filters and eigenvalues of every layer, and how the bands share the work on the given tokens.

    Args:
      config, params: of the model.
      tokens: some real text.
    """
    from matplotlib.figure import Figure

    _, activity = activations(config, params, tokens)
    frequencies = np.geomspace(np.pi / 1024, np.pi, 256)
    gains, roots = filter_responses(params, frequencies), eigenvalues(params)
    page = Figure(figsize=(11, 3 * config.layers), layout="constrained")
    colours = [f"C{head % 10}" for head in range(config.heads)]
    for index, (left, middle, right) in enumerate(page.subplots(config.layers, 3, squeeze=False)):
        for head, colour in enumerate(colours):
            left.loglog(frequencies, gains[index, head], color=colour, label=f"band {head + 1}")
            points = np.ascontiguousarray(roots[index, head]).view(np.float64).reshape(-1, 2)
            middle.plot(points[:, 0], points[:, 1], "o", markersize=4, color=colour)
        left.set(title=f"layer {index + 1}: gain of each band", xlabel="radians per token", ylabel="|H|")
        turn = np.linspace(-np.pi, np.pi, 200)
        middle.plot(np.cos(turn), np.sin(turn), color="0.7", linewidth=0.8)
        middle.set(title="eigenvalues", xlabel="real", ylabel="imaginary", aspect="equal")
        places = np.arange(config.heads) + 1
        right.bar(places, activity.energy[index], color=colours)
        right.set(title="share of the layer's power", xlabel="band")
        if config.band_gate:
            right.plot(places, activity.open[index], "k_", markersize=12, label="let through by the gate")
            right.legend(fontsize=8)
    return page
