"""Float64 oracle of the causal convolutions, written as the definition: slow, in NumPy, independent of the fast paths."""

from __future__ import annotations

import numpy as np
from jaxtyping import Complex, Float

from spectral.convolution import Modes


def _roots(modes: Modes) -> tuple[Complex[np.ndarray, "h m"], Complex[np.ndarray, "h m"]]:
    """lambda and c of every mode."""
    rate, frequency, real, imaginary = (np.asarray(part, np.float64) for part in modes)
    return np.exp(-np.exp(rate) + 1j * frequency), real + 1j * imaginary


def _complex(state: Float[np.ndarray, "b h m2 k"]) -> Complex[np.ndarray, "b h m k"]:
    real, imaginary = np.split(np.asarray(state, np.float64), 2, axis=2)
    return real + 1j * imaginary


def kernel(modes: Modes, length: int) -> Float[np.ndarray, "h t"]:
    """Taps k[t] = sum_m Re(c_m lambda_m**t), by repeated complex multiplication."""
    root, value = _roots(modes)
    taps = []
    for _ in range(length):
        taps.append(np.real(value).sum(axis=1))
        value = value * root
    return np.stack(taps, axis=1)


def filter_convolution(
    x: Float[np.ndarray, "b t h k"], taps: Float[np.ndarray, "h t2"]
) -> Float[np.ndarray, "b t h k"]:
    """y[t] = sum over s <= t of taps[t - s] x[s], term by term; missing taps are 0."""
    x, taps = np.asarray(x, np.float64), np.asarray(taps, np.float64)
    y = np.zeros_like(x)
    for t in range(x.shape[1]):
        for s in range(max(0, t + 1 - taps.shape[1]), t + 1):
            y[:, t] += taps[None, :, t - s, None] * x[:, s]
    return y


def causal_convolution(
    x: Float[np.ndarray, "b t h k"], modes: Modes, state: Float[np.ndarray, "b h m2 k"] | None = None
) -> Float[np.ndarray, "b t h k"]:
    """y[t] = sum over s <= t of k[t - s] x[s], and sum_m Re(c_m lambda_m**(t + 1) s_m) of a state before the first token."""
    y = filter_convolution(x, kernel(modes, x.shape[1]))
    if state is None:
        return y
    root, coefficient = (part[None, ..., None] for part in _roots(modes))
    remembered = _complex(state)
    for t in range(x.shape[1]):
        remembered = root * remembered
        y[:, t] += np.real(coefficient * remembered).sum(axis=2)
    return y


def last_state(
    x: Float[np.ndarray, "b t h k"], modes: Modes, state: Float[np.ndarray, "b h m2 k"] | None = None
) -> Float[np.ndarray, "b h m2 k"]:
    """s <- lambda s + x token by token, real parts then imaginary parts; from zero without a state."""
    batch, length, heads, width = x.shape
    root = _roots(modes)[0][None, ..., None]
    remembered = np.zeros((batch, heads, root.shape[2], width), complex) if state is None else _complex(state)
    for t in range(length):
        remembered = root * remembered + np.asarray(x[:, t, :, None], np.float64)
    return np.concatenate([np.real(remembered), np.imag(remembered)], axis=2)
