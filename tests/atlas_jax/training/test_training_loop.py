"""The generator: indices, the order of hooks, and periods."""

from __future__ import annotations

import pytest

from atlas_jax.training import Event, every, loop


def test_loop_counts_completed_steps_and_calls_hooks_in_order():
    seen = []
    hooks = [lambda event: seen.append(("first", event.index)), lambda event: seen.append(("second", event.state))]
    events = list(loop(lambda index, state: (state + index, {"m": index}), 100, start=2, stop=5, hooks=hooks))
    assert events == [Event(3, 102, {"m": 2}), Event(4, 105, {"m": 3}), Event(5, 109, {"m": 4})]
    assert seen == [("first", 3), ("second", 102), ("first", 4), ("second", 105), ("first", 5), ("second", 109)]


def test_loop_advances_only_when_asked():
    advanced = []
    events = loop(lambda index, state: (advanced.append(index), None), None, start=0, stop=3)
    assert advanced == []
    next(events)
    assert advanced == [0]


def test_every_nth_step_and_the_last_once():
    seen = []
    hook = every(3, lambda event: seen.append(event.index), last=7)
    for index in range(1, 8):
        hook(Event(index, None, None))
    assert seen == [3, 6, 7]
    with pytest.raises(ValueError, match="n=0"):
        every(0, print)
