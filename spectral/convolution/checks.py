"""What the convolutions ask of their arguments: a ValueError says which one is wrong, what it is and what was expected."""

from __future__ import annotations

from collections.abc import Iterable

import jax.numpy as jnp
from jaxtyping import Array

from spectral.convolution.modes import Modes

FLOATS = ("float32", "float64", "bfloat16", "float16")


def accumulation_dtype(x: Array) -> jnp.dtype:
    """The dtype of sums, states and transforms for x: float64 for float64, else float32.

    Raises:
      ValueError: x holds no floats.
    """
    if x.dtype not in FLOATS:
        raise ValueError(f"x is {x.dtype}, expected one of {', '.join(FLOATS)}")
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def check_filter(x: Array, taps: Array) -> None:
    """Raises ValueError where x holds no floats or no tokens, or where taps do not fit it."""
    dtype = accumulation_dtype(x)
    if x.shape[1] == 0:
        raise ValueError("x has 0 tokens, expected at least 1")
    if taps.ndim != 2 or taps.shape[0] != x.shape[2] or taps.shape[1] == 0:
        raise ValueError(
            f"taps has shape {taps.shape}, expected [h = {x.shape[2]}, at least 1] as x has shape {x.shape}"
        )
    if taps.dtype != dtype:
        raise ValueError(f"taps is {taps.dtype}, expected {dtype} beside x of {x.dtype}")


def check_modal(x: Array, modes: Modes, state: Array | None) -> None:
    """Raises ValueError where x holds no floats or no tokens, or where modes or state do not fit it."""
    dtype = accumulation_dtype(x)
    batch, length, heads, width = x.shape
    if length == 0:
        raise ValueError("x has 0 tokens, expected at least 1")
    shape = (heads, *modes.log_rate.shape[1:])
    for name, part in modes._asdict().items():
        if part.ndim != 2 or part.shape != shape:
            raise ValueError(
                f"modes.{name} has shape {part.shape}, expected [h = {heads}, m], one m for all, as x has shape {x.shape}"
            )
        if part.dtype != dtype:
            raise ValueError(f"modes.{name} is {part.dtype}, expected {dtype} beside x of {x.dtype}")
    expected = (batch, heads, 2 * shape[1], width)
    if state is not None and (state.shape != expected or state.dtype != dtype):
        raise ValueError(
            f"state is {state.dtype} {state.shape}, expected {dtype} {expected} = (b, h, 2 m, k): of this batch and model"
        )


def check_algorithm(algorithm: str | None, known: Iterable[str]) -> None:
    """Raises ValueError where the algorithm is not a known one."""
    if algorithm is not None and algorithm not in known:
        raise ValueError(f"algorithm is {algorithm!r}, expected None or one of {', '.join(known)}")


def check_at_least_one(name: str, value: int | None) -> None:
    """Raises ValueError where a number of tokens is below 1."""
    if value is not None and value < 1:
        raise ValueError(f"{name} is {value}, expected at least 1 token")
