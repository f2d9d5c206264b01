"""Float64 oracle of the causal convolution, written as the definition: slow, in NumPy, independent of the fast path."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from spectral.convolution import Modes


def kernel(modes: Modes, length: int) -> Float[np.ndarray, "h t"]:
    """Taps k[t] = sum_m Re(c_m lambda_m**t), by repeated complex multiplication."""
    rate, frequency, real, imaginary = (np.asarray(part, np.float64) for part in modes)
    root = np.exp(-np.exp(rate) + 1j * frequency)
    value, taps = real + 1j * imaginary, []
    for _ in range(length):
        taps.append(value.real.sum(axis=1))
        value = value * root
    return np.stack(taps, axis=1)


def causal_convolution(x: Float[np.ndarray, "b t h k"], modes: Modes) -> Float[np.ndarray, "b t h k"]:
    """y[t] = sum over s <= t of k[t - s] x[s], term by term."""
    x = np.asarray(x, np.float64)
    taps = kernel(modes, x.shape[1])
    y = np.zeros_like(x)
    for t in range(x.shape[1]):
        for s in range(t + 1):
            y[:, t] += taps[None, :, t - s, None] * x[:, s]
    return y
