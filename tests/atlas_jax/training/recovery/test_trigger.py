"""The trigger: silent in health, whatever the noise, and soon there when a loss goes wrong."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.training import adamw, init_state, make_step
from atlas_jax.training.recovery.trigger import Trigger, TriggerState, from_json, observe, to_json

SEEDS = range(20)
NATS = 0.1  # standard deviation of a batch's loss: 30 windows of 128 bytes


def healthy(seed, steps=1000, noise=NATS, heavy=False):
    """A loss that falls by a power law from 5.5 towards 3 nats, with the noise of batches."""
    generator = np.random.default_rng(seed)
    drawn = generator.standard_t(4, steps) / np.sqrt(2) if heavy else generator.normal(size=steps)
    return 3 + 2.5 * (1 + np.arange(steps) / 60) ** -0.6 + noise * drawn


def first_fire(losses, trigger=None):
    """Completed steps at which it fires, and the state then; None when it never does."""
    trigger, state = trigger or Trigger(), TriggerState()
    for index, loss in enumerate(losses, 1):
        state, reason = observe(trigger, state, float(loss))
        if reason is not None:
            return index, state
    return None, state


def raw_perplexity_fires(losses):
    """The trigger that ours replaces: training perplexity 5 % above its moving average; the share of steps it fires at."""
    perplexity = np.exp(losses)
    average, fires = perplexity[0], 0
    for value in perplexity:
        fires += value > 1.05 * average
        average += 0.01 * (value - average)
    return fires / len(losses)


def test_the_raw_rule_fires_all_the_time_where_ours_is_silent():
    shares = [raw_perplexity_fires(healthy(seed, steps=3000)[1000:]) for seed in SEEDS]
    assert min(shares) > 0.2
    assert [first_fire(healthy(seed))[0] for seed in SEEDS] == [None] * 20


@pytest.mark.parametrize(("noise", "heavy"), [(0.4, False), (1.0, True)])
def test_it_is_silent_in_louder_and_heavy_tailed_noise(noise, heavy):
    assert [first_fire(healthy(seed, noise=noise, heavy=heavy))[0] for seed in SEEDS] == [None] * 20


def windows_of_a_chain(count, length, states=24):
    """Windows of a made-up language in which each token says something about the next."""
    generator = np.random.default_rng(0)
    chances = np.cumsum(generator.dirichlet(np.full(states, 0.2), states), axis=1)
    tokens = [generator.integers(0, states, count)]
    for _ in range(length - 1):
        tokens.append((chances[tokens[-1]] < generator.random((count, 1))).sum(axis=1).clip(max=states - 1))
    return np.stack(tokens, axis=1).astype(np.int32)


def test_it_is_silent_in_20_real_runs():
    """Bigram models from scratch, with 4 windows of 32 tokens a batch."""
    windows = windows_of_a_chain(500, 33)

    def loss(params, tokens, key):
        scores = jax.nn.log_softmax(params[tokens[:, :-1]])
        return -jnp.mean(jnp.take_along_axis(scores, tokens[:, 1:, None], axis=-1)), {}

    step = make_step(loss, adamw())

    @jax.jit
    def run(batches):
        state = init_state(jnp.zeros((24, 24)), adamw(), jax.random.key(0))
        return jax.lax.scan(lambda state, batch: step(state, batch, 0.03), state, batches)[1]["loss"]

    orders = [np.random.default_rng(seed).integers(0, 500, (600, 4)) for seed in SEEDS]
    losses = np.array([run(windows[order]) for order in orders])
    assert losses[:, -50:].mean() < 0.7 * losses[:, 0].mean(), "they did not learn"
    assert np.std(losses[:, -200:]) / losses[:, -200:].mean() > 0.03, "there is no noise to be fooled by"
    assert [first_fire(row)[0] for row in losses] == [None] * 20


def spoilt(seed, at, excess):
    losses = healthy(seed, steps=at + 600)
    losses[at:] += excess(np.arange(len(losses) - at))
    return losses


FAULTS = {  # excess over the sound loss by steps since, and the steps within which it must be seen
    "twice the loss": (lambda t: 3.4 + 0 * t, 5),
    "a quarter more": (lambda t: 0.85 + 0 * t, 20),
    "growing by 5 % a step": (lambda t: 3.4 * (1.05**t - 1), 15),
    "growing by .01 nats a step": (lambda t: 0.01 * t, 75),
    "growing by .001 nats a step": (lambda t: 0.001 * t, 500),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_divergence_is_seen_within_so_many_steps(name):
    excess, within = FAULTS[name]
    found = [first_fire(spoilt(seed, 1000, excess))[0] for seed in range(5)]
    assert all(index is not None and 1000 < index <= 1000 + within for index in found), found


def test_a_run_that_goes_wrong_while_calibrating_is_seen_too():
    for at, within in ((10, 20), (100, 8)):
        found = [first_fire(spoilt(seed, at, lambda t: 4.0 + 0 * t)) for seed in range(5)]
        assert all(at < index <= at + within for index, _ in found), found
        assert all(state.threshold is None for _, state in found)
    index, _ = first_fire([5.5, 50.0, *[60.0] * 40])  # from the second step on
    assert index is not None


def test_one_bad_batch_is_no_divergence_and_an_enormous_one_is():
    losses = healthy(0)
    losses[700] += 4
    assert first_fire(losses)[0] is None
    losses[700] = 1e4
    assert first_fire(losses)[0] == 701


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fires_at_once_and_leaves_the_state(value):
    state, reason = observe(Trigger(), TriggerState(), float(value))
    assert reason == f"the loss is {value}"
    assert state == TriggerState()


def test_the_threshold_is_calibrated_between_floor_and_stop():
    def threshold(losses):
        trigger = Trigger(horizon=8, calibration=100)
        index, state = first_fire(losses, trigger)
        assert index is None
        return state.threshold

    noise = np.random.default_rng(0).normal(size=200)
    assert threshold(3 + 0.001 * noise) == 0.05
    assert threshold(3 + 1.0 * noise) == 0.10
    losses = 3 + 0.3 * noise
    # By its definition, from the losses themselves.
    deviations = []
    for seen in range(1, 109):
        smoothed = average = losses[0]
        for i, value in enumerate(losses[1:seen], 2):
            smoothed += (value - smoothed) / min(i, 8)
            average += (value - average) / min(i, 64)
        deviations.append((smoothed - average) / average)
    deviations = deviations[8:]
    expected = np.quantile(deviations, 0.99) + np.std(deviations)
    assert 0.05 < expected < 0.10
    assert threshold(losses) == pytest.approx(expected, rel=1e-12)


def test_losses_that_vanish_or_are_zero_are_no_divergence():
    generator = np.random.default_rng(0)
    vanishing = 5 * np.exp(-np.arange(2000) / 100) * (1 + 0.3 * generator.normal(size=2000))
    assert first_fire(vanishing + 1e-4 * generator.exponential(size=2000))[0] is None
    assert first_fire(np.zeros(400))[0] is None
    falling = -1 - 2 * np.linspace(0, 1, 500) + 0.02 * generator.normal(size=500)  # a density's: below zero
    assert first_fire(falling)[0] is None
    falling[400:] += 0.6
    assert 400 < first_fire(falling)[0] < 440


def test_a_state_survives_json_to_the_bit_and_goes_on():
    trigger, losses = Trigger(), healthy(3, steps=400)
    for cut in (1, 20, 100, 300):
        state = TriggerState()
        for loss in losses[:cut]:
            state, _ = observe(trigger, state, float(loss))
        again = from_json(json.loads(json.dumps(to_json(state), allow_nan=False)))
        assert again == state
        for loss in losses[cut:]:
            state, _ = observe(trigger, state, float(loss))
            again, _ = observe(trigger, again, float(loss))
        assert again == state


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"Trigger\.horizon is 1"):
        Trigger(horizon=1)
    with pytest.raises(ValueError, match=r"floor is 0\.2 and stop 0\.1"):
        Trigger(floor=0.2)
