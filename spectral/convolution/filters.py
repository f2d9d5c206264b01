"""The causal convolution with free-form filters: any taps, no modes and so no streaming state of fixed size."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from spectral.convolution import choice
from spectral.convolution.block import inside, toeplitz
from spectral.convolution.checks import check_algorithm, check_filter
from spectral.convolution.fourier import fft_filter
from spectral.convolution.hierarchical import hierarchical_fft


def toeplitz_filter(x: Float[Array, "b t h k"], taps: Float[Array, "h t2"]) -> Float[Array, "b t h k"]:
    """The whole sequence as one matmul."""
    missing = max(0, x.shape[1] - taps.shape[1])
    return inside(toeplitz(jnp.pad(taps, ((0, 0), (0, missing)))), x)


ALGORITHMS = {"toeplitz": toeplitz_filter, "fft": fft_filter, "overlap_save": hierarchical_fft}


def filter_convolution(
    x: Shaped[Array, "b t h k"],  # checked below, with a message that says what was expected
    taps: Shaped[Array, "*a"],
    *,
    algorithm: str | None = None,
) -> Float[Array, "b t h k"]:
    """y[t] = sum over s <= t of taps[t - s] x[s].

    - "toeplitz": one matmul; quadratic, for short sequences.
    - "fft": transforms with twice T points; rounding of the future reaches the past.
    - "overlap_save": `hierarchical_fft`, strictly causal, working memory of one head.

    Args:
      x: inputs, float32, float64, bfloat16 or float16; the filter of a head is shared by its k channels.
      taps: filters, float32 (float64 with x of float64): taps[:, 0] weighs the present. Missing ones are 0, and those beyond
        the length of x are not used.
      algorithm: one of the above; None takes the fastest in the table of `spectral.convolution.choice` for the
        platform that is traced for, T and dtype.

    Returns:
      The outputs in the dtype of x; sums and transforms are float32, or float64 with x.

    Raises:
      ValueError: x holds no floats or no tokens, taps do not fit x, or the algorithm is unknown.
    """
    check_filter(x, taps)
    check_algorithm(algorithm, ALGORITHMS)
    return ALGORITHMS[algorithm or choice.filters(x.shape[1], str(x.dtype)).algorithm](x, taps[:, : x.shape[1]])
