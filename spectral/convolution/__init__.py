"""Causal convolutions, exact and in several algorithms, behind two functions.

- `causal_convolution`: kernels that are sums of damped `Modes`, with a streaming state whose size does not grow.
- `filter_convolution`: any taps; `hierarchical_fft` is its algorithm for long ones.
"""

from spectral.convolution.block import toeplitz
from spectral.convolution.causal import causal_convolution
from spectral.convolution.filters import filter_convolution
from spectral.convolution.hierarchical import hierarchical_fft
from spectral.convolution.modes import Modes, ModeState, init_state, kernel, powers

__all__ = [
    "ModeState",
    "Modes",
    "causal_convolution",
    "filter_convolution",
    "hierarchical_fft",
    "init_state",
    "kernel",
    "powers",
    "toeplitz",
]
