"""The diagonal recurrences against their float64 definition, each other, and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from spectral import scans
from spectral.scans import Split

FIXED = {f.__name__: f for f in (scans.sequential_fixed, scans.associative_fixed, scans.fixed_scan)}
VARYING = {f.__name__: f for f in (scans.sequential_varying, scans.associative_varying, scans.varying_scan)}
MODES = 3


def definition(transition, inputs, start):
    """c[t] = a[t] c[t-1] + u[t] in complex128, one token after the other."""
    state, states = start, []
    for t in range(inputs.shape[1]):
        state = transition[:, t] * state + inputs[:, t]
        states.append(state)
    return np.stack(states, axis=1)


def split(x):
    return Split(jnp.asarray(x.real), jnp.asarray(x.imag))


def joined(x):
    return np.asarray(x.real) + 1j * np.asarray(x.imaginary)


def drawn(length, batch=2, seed=0):
    """Transition [b, t, k], inputs [b, t, k] and start [b, k], complex128."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    turn = rng.uniform(0, 2 * np.pi, (batch, length, MODES))
    return rng.uniform(0.2, 1, turn.shape) * np.exp(1j * turn), normal(batch, length, MODES), normal(batch, MODES)


@jax.jit
def every_scan(transition, inputs, start):
    """The fixed ones with the transition of the first token of the first row."""
    fixed = jax.tree.map(lambda part: part[0, 0], transition)
    found = {name: function(fixed, inputs, start) for name, function in FIXED.items()}
    return found | {name: function(transition, inputs, start) for name, function in VARYING.items()}


@pytest.mark.parametrize("length", [1, 2, 5, 8, 13, 32])
def test_every_scan_equals_the_definition(length):
    transition, inputs, start = drawn(length)
    with jax.enable_x64(True):
        found = every_scan(*(split(x) for x in (transition, inputs, start)))
    for name, states in found.items():
        a = np.broadcast_to(transition[:1, :1], transition.shape) if name in FIXED else transition
        expected = definition(a, inputs, start)
        np.testing.assert_allclose(joined(states), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_a_constant_transition_makes_the_varying_scan_the_fixed_one():
    transition, inputs, start = drawn(8)
    same = np.broadcast_to(transition[:1, :1], transition.shape)
    with jax.enable_x64(True):
        found = every_scan(*(split(x) for x in (same, inputs, start)))
    for name in VARYING:
        np.testing.assert_allclose(joined(found[name]), joined(found["fixed_scan"]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("length", [8, 13])
def test_no_state_depends_on_what_comes_later(length):
    """Bitwise, in float32, and for the associative forms too: later inputs are not even multiplied by zero."""
    cuts = np.arange(1, length)
    future = np.arange(length) >= cuts[:, None]
    transition, inputs, start = (x.astype(np.complex64) for x in drawn(length, batch=len(cuts)))
    changed = [np.where(future[..., None], (5 - 3 * x).astype(np.complex64), x) for x in (transition, inputs)]
    before = every_scan(*(split(x) for x in (transition, inputs, start)))
    after = every_scan(*(split(x) for x in (*changed, start)))
    for name, states in before.items():
        same = joined(states) == joined(after[name])
        assert np.all(same[~future]), name
        assert not np.any(same[future]), name


@pytest.mark.parametrize(
    ("name", "length"), [("fixed_scan", 1), ("fixed_scan", 6), ("varying_scan", 1), ("varying_scan", 6)]
)
def test_gradients_by_hand_equal_finite_differences(name, length):
    """Of every entry of transition, inputs and start, with a loss that is not linear in the states."""
    transition, inputs, start = drawn(length)
    function = (FIXED | VARYING)[name]
    transition = transition[0, 0] if name in FIXED else transition
    weights = np.random.default_rng(1).normal(size=(2, *inputs.shape))
    with jax.enable_x64(True):
        flat, restore = ravel_pytree(tuple(split(x) for x in (transition, inputs, start)))

        def loss(flat):
            states = jnp.stack(function(*restore(flat)))
            return jnp.sum(jnp.asarray(weights) * jnp.sin(states))

        h = 1e-5
        both = jax.jit(jax.vmap(lambda nudge: (loss(flat + nudge) - loss(flat - nudge)) / (2 * h)))
        differences, gradient = both(h * jnp.eye(len(flat))), jax.jit(jax.grad(loss))(flat)
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)
    assert np.count_nonzero(gradient) == len(flat)


def test_gradients_of_a_batch_and_of_a_gradient():
    """Under vmap and twice, against JAX's own derivative of the same loop."""
    transition, inputs, start = drawn(5)

    def loss(scan, real):
        states = scan(Split(real, split(transition).imaginary), split(inputs), split(start))
        return jnp.sum(jnp.tanh(states.real) * states.imaginary)

    @jax.jit
    def derivatives(real):
        def of(scan):
            once = jax.grad(lambda r: loss(scan, r))
            return jax.vmap(once)(jnp.stack([real, 0.5 * real])), jax.grad(lambda r: jnp.sum(once(r) ** 2))(real)

        return of(scans.varying_scan), of(scans.sequential_varying)

    with jax.enable_x64(True):
        by_hand, derived = derivatives(jnp.asarray(transition.real))
    for mine, expected in zip(by_hand, derived, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-9, atol=1e-11)


def test_a_cpu_walks_and_an_accelerator_halves():
    """The program for a CPU has a loop over time, the one for CUDA has none: log2 of it steps instead."""
    transition, inputs, start = (x.astype(np.complex64) for x in drawn(64))
    for name, a in (("fixed_scan", transition[0, 0]), ("varying_scan", transition)):
        traced = jax.jit((FIXED | VARYING)[name]).trace(split(a), split(inputs), split(start))
        texts = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "cuda")}
        assert "stablehlo.while" in texts["cpu"]
        assert "stablehlo.while" not in texts["cuda"]
