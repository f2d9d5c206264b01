"""The causal convolution with a modal kernel: one function, several exact algorithms."""

from __future__ import annotations

from jaxtyping import Array, Float, Shaped

from spectral.convolution import choice
from spectral.convolution.block import whole
from spectral.convolution.checks import check_algorithm, check_at_least_one, check_modal
from spectral.convolution.chunked import chunked
from spectral.convolution.fourier import fft
from spectral.convolution.modes import Modes, ModeState
from spectral.convolution.parallel import parallel
from spectral.convolution.recurrence import scan

WHOLE = {"toeplitz": whole, "fft": fft}
IN_CHUNKS = {"chunked": chunked, "parallel": parallel, "scan": scan}
ALGORITHMS = (*WHOLE, *IN_CHUNKS)
DEFAULT_CHUNK = 128


def causal_convolution(
    x: Shaped[Array, "b t h k"],  # checked below, with a message that says what was expected
    modes: Modes,
    state: Shaped[Array, "*a"] | None = None,
    *,
    chunk: int | None = None,
    algorithm: str | None = None,
) -> tuple[Float[Array, "b t h k"], ModeState]:
    """y[t] = sum over s <= t of kernel[t - s] x[s], and the state that lets the next call go on from here.

    Every algorithm computes the same sums. Which one is fastest depends on the device and the length:

    - "toeplitz": the whole sequence as one matmul; quadratic, for short sequences.
    - "chunked": that matmul chunk after chunk, a scan carries the state; the smallest working set, for CPUs.
    - "parallel": all chunks at once, an associative scan over their states; for accelerators.
    - "fft": the kernel written out, transforms with twice T points; rounding of the future reaches the past.
    - "scan": the recurrence token by token; pays with one mode and one channel a head, where a CPU takes 16 ns against 27.

    Args:
      x: inputs, float32, float64, bfloat16 or float16; the kernel of a head is shared by its k channels.
      modes: damped modes per head, float32 (float64 with x of float64).
      state: where an earlier call stopped; None at the start of a sequence.
      chunk: tokens per block of "chunked" and "parallel", per checkpointed segment of "scan". None is the table's, or 128
        with a named algorithm. Given without an algorithm it also says up to where a sequence is one Toeplitz block.
      algorithm: one of the above; None takes the fastest in the table of `spectral.convolution.choice` for the
        platform that is traced for, T and dtype.

    Returns:
      The outputs in the dtype of x, and the state after the last token, [b, h, 2 m, k], real parts then imaginary parts:
      float32, or float64 with x.

    Raises:
      ValueError: x holds no floats or no tokens, modes or state do not fit x, the algorithm is unknown, chunk < 1.
    """
    check_modal(x, modes, state)
    check_at_least_one("chunk", chunk)
    check_algorithm(algorithm, ALGORITHMS)
    if algorithm is None:
        algorithm, _, chunk = choice.modal(x.shape[1], str(x.dtype), chunk)
    if algorithm in WHOLE:
        return WHOLE[algorithm](x, modes, state)
    return IN_CHUNKS[algorithm](x, modes, state, DEFAULT_CHUNK if chunk is None else chunk)
