"""What a memory is given: keys, values, queries, and gates that say how each token is learnt and forgotten."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

FORGOTTEN = -100.0
"""The logarithm of nothing kept: e^-100 is nothing beside any rounding, and sums and differences of it are numbers."""


class Gates(NamedTuple):
    """How each token is learnt and forgotten.

    Attributes:
      log_keep: log(1 - alpha), at most 0; `FORGOTTEN` and all below it, -inf too, is nothing kept.
      log_momentum: log(eta), likewise.
      rate: theta, at least 0.
      strength: gamma, what the token counts in the windows that it stands in, 0 to 1.
    """

    log_keep: Float[Array, "*n t"]
    log_momentum: Float[Array, "*n t"]
    rate: Float[Array, "*n t"]
    strength: Float[Array, "*n t"]


class Tokens(NamedTuple):
    """Queries, keys, values and gates of t tokens."""

    query: Float[Array, "*n t d"]
    key: Float[Array, "*n t d"]
    value: Float[Array, "*n t v"]
    gates: Gates


class Past(NamedTuple):
    """The window - 1 tokens before: their keys, values and strengths; strength 0 before the first token."""

    key: Float[Array, "w d"]
    value: Float[Array, "w v"]
    strength: Float[Array, " w"]


def masked(gates: Gates, there: Bool[Array, " t"]) -> Gates:
    """Gates under which the tokens that are not there neither teach nor age the memory; logarithms are numbers."""
    return Gates(
        jnp.where(there, jnp.maximum(gates.log_keep, FORGOTTEN), 0.0),
        jnp.where(there, jnp.maximum(gates.log_momentum, FORGOTTEN), 0.0),
        jnp.where(there, gates.rate, 0.0),
        jnp.where(there, gates.strength, 0.0),
    )


def empty_past(window: int, width: int, value_width: int, dtype: jnp.dtype) -> Past:
    """The window before the first token."""
    past = window - 1
    return Past(jnp.zeros((past, width), dtype), jnp.zeros((past, value_width), dtype), jnp.zeros((past,), dtype))


def with_past(past: Past, tokens: Tokens) -> Past:
    """The tokens of the window before and those of now, in one row."""
    new = Past(tokens.key, tokens.value, tokens.gates.strength)
    return Past(*(jnp.concatenate(pair) for pair in zip(past, new, strict=True)))
