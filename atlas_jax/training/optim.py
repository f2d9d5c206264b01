"""AdamW at unit learning rate, and the two schedules: warm-up, stable, decay; and cosine."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree


def matrices(params: PyTree) -> PyTree:
    """True for parameters of two or more axes: what weight decay acts on (biases, scales and gates keep their size)."""
    return jax.tree.map(lambda p: np.ndim(p) >= 2, params)


def adamw(
    *,
    b1: float = 0.9,
    b2: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    decayed: Callable[[PyTree], PyTree] = matrices,
) -> optax.GradientTransformation:
    """AdamW as an *ascent* direction at unit learning rate: `m / (sqrt(v) + eps) + weight_decay * p`.

    `make_step` subtracts the learning rate times this, which equals `optax.adamw(learning_rate, ...)` after
    `optax.clip_by_global_norm`; the rate stays out so that it can be traced.

    Args:
      b1, b2, eps: moments and their floor; b2 below 0.999 because short runs never fill a longer window.
      weight_decay: coefficient of decoupled decay, multiplied by the learning rate like the rest.
      clip_norm: largest global norm of the gradient; None leaves it as it is.
      decayed: params to a tree of bools. A model that stacks its layers on a leading axis passes its own, as its
        biases have two axes.

    Source: Loshchilov and Hutter 2019, algorithm 2, without its schedule multiplier.
    """
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    adam, decay = optax.scale_by_adam(b1=b1, b2=b2, eps=eps), optax.add_decayed_weights(weight_decay, mask=decayed)
    inner = optax.chain(clip, adam, decay)

    def update(updates: PyTree, state: optax.OptState, params: PyTree = None) -> tuple[PyTree, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a Python float to the power of an int32 count
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def wsd(peak: float | jax.Array, *, warmup: int, stable: int, decay: int, floor: float = 0.0) -> optax.Schedule:
    """Linear warm-up from 0, a constant stretch, linear decay: any point of the constant stretch can start a decay.

    Args:
      peak: learning rate of the constant stretch (may be traced), or 1 for a multiplier.
      warmup, stable, decay: lengths in steps; the decay ends at step `warmup + stable + decay`.
      floor: share of the peak that remains at and after that end; without a decay the peak remains.

    Returns:
      step -> rate, for Python and NumPy ints, arrays of them, and traced ints.

    Source: Hu et al. 2024 (MiniCPM), equation 1, with a linear decay.
    """
    _check_lengths(warmup=warmup, stable=stable, decay=decay)
    pieces = [
        optax.schedules.linear_schedule(0.0, peak, warmup),
        optax.schedules.constant_schedule(peak),
        optax.schedules.linear_schedule(peak, peak * floor, decay),
    ]
    return _joined(pieces, [warmup, warmup + stable])


def cosine(peak: float | jax.Array, *, warmup: int, steps: int, floor: float = 0.0) -> optax.Schedule:
    """Linear warm-up from 0, then half a cosine down to `floor * peak` at step `steps` (the warm-up included).

    Args and Returns as for `wsd`.

    Source: Loshchilov and Hutter 2017 (SGDR), equation 5, one cycle.
    """
    _check_lengths(warmup=warmup, steps=steps)
    if warmup >= steps:
        raise ValueError(f"cosine: warmup={warmup} must be shorter than steps={steps}")
    pieces = [
        optax.schedules.linear_schedule(0.0, peak, warmup),
        optax.schedules.cosine_decay_schedule(peak, steps - warmup, alpha=floor),
    ]
    return _joined(pieces, [warmup])


def _joined(pieces: list[optax.Schedule], boundaries: list[int]) -> optax.Schedule:
    schedule = optax.schedules.join_schedules(pieces, boundaries)
    # Counts as float32, exact to 2**24 steps: optax multiplies them by Python floats, which strict promotion forbids.
    return lambda count: schedule(jnp.asarray(count, jnp.float32))


def _check_lengths(**lengths: int) -> None:
    for name, value in lengths.items():
        if value < 0:
            raise ValueError(f"schedule: {name}={value}, expected a number of steps of 0 or more")
