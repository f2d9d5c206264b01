"""Forward and backward time of every causal convolution algorithm by length: where the table of choices comes from.

    taskset -c 1 python -m benchmarks.convolution_table --dtype float32

One JSON line a figure: time of outputs and gradients (of inputs and parameters) per token and channel, the best of several
runs, and the temporary memory that the compiled program asks for. Sequences are batched to `tokens` tokens a run, so
that every length does the same work a channel; the last length alone may be longer. On a CPU it is the time of the CPU,
which on one core is the wall time less what other processes took; elsewhere it is the wall time. The winners go
into `spectral/convolution/choice.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.figures import line
from spectral.convolution import Modes, causal_convolution, filter_convolution
from spectral.layers import coefficients, octave_modes


@dataclass(frozen=True)
class Options:
    """Times the convolution algorithms on the default device."""

    lengths: tuple[int, ...] = (128, 512, 2_048, 8_192, 32_768, 131_072)
    """Tokens a sequence."""
    tokens: int = 32_768
    """Tokens a run: as many sequences as it takes, one at least."""
    width: int = 128
    """Channels."""
    heads: int = 8
    """Heads: kernels."""
    modes: int = 8
    """Modes a head."""
    chunks: tuple[int, ...] = (32, 64, 128)
    """Chunks to try."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the inputs."""
    longest_toeplitz: int = 2_048
    """A Toeplitz matmul is not timed for longer sequences; it is quadratic."""
    seconds: float = 0.8
    """Of repetitions for a figure, two at least."""
    kernels: Literal["both", "modal", "filter"] = "both"
    """Which of the two functions."""


Case = tuple[str, Callable[[jax.Array, Any], jax.Array], Any]


def drawn_modes(options: Options) -> Modes:
    """The modes a layer starts from."""
    log_rate, frequency = octave_modes(options.heads, options.modes, float(max(options.lengths)))
    parts = (log_rate, frequency, *coefficients(log_rate))
    return Modes(*(jnp.asarray(part, jnp.float32) for part in parts))


def cases(options: Options, length: int) -> Iterator[Case]:
    """Name, function of (x, parameters) and parameters of everything that is timed at a length."""
    modes = drawn_modes(options)
    quadratic = length <= options.longest_toeplitz
    if options.kernels != "filter":
        for algorithm in ("toeplitz", "fft", "scan") if quadratic else ("fft", "scan"):
            yield f"modal.{algorithm}", partial(_modal, algorithm, None), modes
        for algorithm in ("chunked", "parallel"):
            for chunk in options.chunks:
                yield f"modal.{algorithm}-{chunk}", partial(_modal, algorithm, chunk), modes
    if options.kernels != "modal":
        taps = jnp.asarray(np.random.default_rng(1).normal(size=(options.heads, length)), jnp.float32)
        for algorithm in ("toeplitz", "fft", "overlap_save") if quadratic else ("fft", "overlap_save"):
            yield f"filter.{algorithm}", partial(_filter, algorithm), taps


def _modal(algorithm: str, chunk: int | None, x: jax.Array, modes: Modes) -> jax.Array:
    return causal_convolution(x, modes, algorithm=algorithm, chunk=chunk)[0]


def _filter(algorithm: str, x: jax.Array, taps: jax.Array) -> jax.Array:
    return filter_convolution(x, taps, algorithm=algorithm)


def timed(case: Case, x: jax.Array, seconds: float) -> tuple[float, int]:
    """Seconds of the fastest forward and backward pass, and the bytes of temporary memory it takes."""
    _, function, parameters = case

    def both(x: jax.Array, parameters: Any, weights: jax.Array) -> Any:
        y, pull = jax.vjp(function, x, parameters)
        return y, pull(weights)

    compiled = jax.jit(both).lower(x, parameters, x).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None, "every backend that is timed here says what memory a program takes"
    jax.block_until_ready(compiled(x, parameters, x))
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    runs: list[float] = []
    while len(runs) < 2 or sum(runs) < seconds:
        start = clock()
        jax.block_until_ready(compiled(x, parameters, x))
        runs.append(clock() - start)
    return min(runs), analysis.temp_size_in_bytes


def main(options: Options) -> None:
    """Prints the table."""
    for length in options.lengths:
        batch = max(1, options.tokens // length)
        shape = (batch, length, options.heads, options.width // options.heads)
        x = jnp.asarray(np.random.default_rng(0).normal(size=shape), options.dtype)
        for case in cases(options, length):
            seconds, memory = timed(case, x, options.seconds)
            print(
                line(
                    f"convolution.{jax.default_backend()}.{options.dtype}.{case[0]}.T={length}",
                    1e9 * seconds / (batch * length * options.width),
                    "ns per token and channel",
                    temporary_bytes=memory,
                ),
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
