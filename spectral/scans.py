"""Diagonal complex recurrences c[t] = a[t] c[t-1] + u[t], with a fixed transition a or one that varies in time.

Each is there twice, exactly: `sequential_*` walks through time (fastest on a CPU), `associative_*` halves the sequence
again and again (log t steps, for accelerators). `fixed_scan` and `varying_scan` choose by the platform that the program
is lowered for, and have gradients by hand: the backward pass of a linear recurrence is the same recurrence on reversed
time with the conjugate transition.

Complex numbers are two real arrays: complex64 is twice as slow on a CPU, and no dtype but float has bfloat16 relatives.

Source: Martin and Cundy 2018, Parallelizing Linear Recurrent Neural Nets, arXiv:1709.04057; Blelloch 1990, Prefix Sums
and Their Applications.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Split(NamedTuple):
    """A complex array as its two real parts, of one shape and dtype."""

    real: Float[Array, "*s"]
    imaginary: Float[Array, "*s"]


def times(a: Split, b: Split) -> Split:
    """Product of two complex arrays of one shape."""
    return Split(a.real * b.real - a.imaginary * b.imaginary, a.real * b.imaginary + a.imaginary * b.real)


def plus(a: Split, b: Split) -> Split:
    """Sum of two complex arrays of one shape."""
    return Split(a.real + b.real, a.imaginary + b.imaginary)


def conjugate(a: Split) -> Split:
    """a with the sign of its imaginary part turned."""
    return Split(a.real, -a.imaginary)


def _each(function, *trees: Split) -> Split:
    return jax.tree.map(function, *trees)


def _time_first(a: Split) -> Split:
    return _each(lambda part: jnp.swapaxes(part, 0, 1), a)


def _like(a: Split, b: Split) -> Split:
    """a [k], broadcast to the shape of b [..., k]."""
    return _each(lambda part, shape: jnp.broadcast_to(part, shape.shape), a, b)


def _inject(transition: Split, inputs: Split, start: Split) -> Split:
    """The inputs with the start state moved on into the first of them, so that what follows starts from zero."""
    first = times(transition, start)
    return _each(lambda part, into: part.at[:, 0].add(into), inputs, first)


def sequential_fixed(transition: Split, inputs: Split, start: Split) -> Split:
    """See `fixed_scan`; one token after the other."""

    def advance(state: Split, u: Split) -> tuple[Split, Split]:
        state = plus(times(_like(transition, state), state), u)
        return state, state

    _, states = jax.lax.scan(advance, start, _time_first(inputs))
    return _time_first(states)


def associative_fixed(transition: Split, inputs: Split, start: Split) -> Split:
    """See `fixed_scan`; pairs of tokens first, then pairs of pairs, with the squared transition."""

    def halved(a: Split, u: Split) -> Split:
        length = u.real.shape[1]
        if length == 1:
            return u
        even, odd = (_each(lambda part, k=k: part[:, k::2], u) for k in (0, 1))
        pairs = odd.real.shape[1]
        firsts = _each(lambda part: part[:, :pairs], even)
        at_odd = halved(times(a, a), plus(times(_like(a, firsts), firsts), odd))
        before = _each(lambda part: part[:, : (length - 1) // 2], at_odd)
        later = _each(lambda part: part[:, 1:], even)
        later = plus(times(_like(a, before), before), later)
        at_even = _each(lambda first, rest: jnp.concatenate([first[:, :1], rest], axis=1), even, later)
        return _each(_interleave, at_even, at_odd)

    return halved(transition, _inject(_like(transition, start), inputs, start))


def _interleave(even: Float[Array, "b n k"], odd: Float[Array, "b m k"]) -> Float[Array, "b t k"]:
    batch, pairs, width = odd.shape
    woven = jnp.stack([even[:, :pairs], odd], axis=2).reshape(batch, 2 * pairs, width)
    return jnp.concatenate([woven, even[:, pairs:]], axis=1)


def sequential_varying(transition: Split, inputs: Split, start: Split) -> Split:
    """See `varying_scan`; one token after the other."""

    def advance(state: Split, now: tuple[Split, Split]) -> tuple[Split, Split]:
        a, u = now
        state = plus(times(a, state), u)
        return state, state

    _, states = jax.lax.scan(advance, start, (_time_first(transition), _time_first(inputs)))
    return _time_first(states)


def associative_varying(transition: Split, inputs: Split, start: Split) -> Split:
    """See `varying_scan`; a prefix sum over the composition of affine maps."""

    def compose(earlier: tuple[Split, Split], later: tuple[Split, Split]) -> tuple[Split, Split]:
        (a, u), (b, v) = earlier, later
        return times(b, a), plus(times(b, u), v)

    inputs = _inject(_each(lambda part: part[:, 0], transition), inputs, start)
    return jax.lax.associative_scan(compose, (transition, inputs), axis=1)[1]


@jax.custom_vjp
def fixed_scan(transition: Split, inputs: Split, start: Split) -> Split:
    """c[t] = a c[t-1] + u[t] for every token.

    Args:
      transition: a, [k].
      inputs: u, [b, t, k].
      start: c before the first token, [b, k].

    Returns:
      c of every token, [b, t, k]. Reverse-mode gradients only.
    """
    return jax.lax.platform_dependent(transition, inputs, start, cpu=sequential_fixed, default=associative_fixed)


@jax.custom_vjp
def varying_scan(transition: Split, inputs: Split, start: Split) -> Split:
    """c[t] = a[t] c[t-1] + u[t] for every token.

    Args:
      transition: a, [b, t, k].
      inputs: u, [b, t, k].
      start: c before the first token, [b, k].

    Returns:
      c of every token, [b, t, k]. Reverse-mode gradients only.
    """
    return jax.lax.platform_dependent(transition, inputs, start, cpu=sequential_varying, default=associative_varying)


def _reversed(a: Split) -> Split:
    return _each(lambda part: jnp.flip(part, axis=1), a)


def _previous(states: Split, start: Split) -> Split:
    """The state that each token found."""
    return _each(lambda part, first: jnp.concatenate([first[:, None], part[:, :-1]], axis=1), states, start)


Saved = tuple[Split, Split, Split]


def _fixed_forward(transition: Split, inputs: Split, start: Split) -> tuple[Split, Saved]:
    states = fixed_scan(transition, inputs, start)
    return states, (transition, states, start)


def _fixed_backward(saved: Saved, cotangent: Split) -> Saved:
    transition, states, start = saved
    zero = _each(jnp.zeros_like, start)
    gradient = _reversed(fixed_scan(conjugate(transition), _reversed(cotangent), zero))
    of_transition = _each(lambda part: jnp.sum(part, axis=(0, 1)), times(gradient, conjugate(_previous(states, start))))
    first = _each(lambda part: part[:, 0], gradient)
    return of_transition, gradient, times(_like(conjugate(transition), first), first)


def _varying_forward(transition: Split, inputs: Split, start: Split) -> tuple[Split, Saved]:
    states = varying_scan(transition, inputs, start)
    return states, (transition, states, start)


def _varying_backward(saved: Saved, cotangent: Split) -> Saved:
    transition, states, start = saved
    zero = _each(jnp.zeros_like, start)
    # Backward, the transition between t and t + 1 is that of t + 1; nothing comes from behind the last token.
    later = _each(lambda part: jnp.roll(part, -1, axis=1), conjugate(transition))
    gradient = _reversed(varying_scan(_reversed(later), _reversed(cotangent), zero))
    first, a = (_each(lambda part: part[:, 0], tree) for tree in (gradient, conjugate(transition)))
    return times(gradient, conjugate(_previous(states, start))), gradient, times(a, first)


fixed_scan.defvjp(_fixed_forward, _fixed_backward)
varying_scan.defvjp(_varying_forward, _varying_backward)
