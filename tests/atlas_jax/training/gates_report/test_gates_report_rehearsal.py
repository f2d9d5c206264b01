"""A trained run, given corrupt batches on a copy, goes back and recovers; where the trigger has no time to fire it is seen."""

from __future__ import annotations

from functools import partial

import pytest

from atlas_jax.training.gates_report.rehearsal import Plan, rehearse, rollback_gate
from atlas_jax.training.recovery.recovery import Recovery, loop_with_recovery
from atlas_jax.training.runs.execution import execute
from atlas_jax.training.runs.run import resolve
from atlas_jax.training.runs.settings import Settings

SMALL = ("d_model=16", "layers=1", "heads=1", "feed_forward=16")
STEPS = 150


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    settings = Settings(
        model="transformer",
        preset="micro-32",
        config=SMALL,
        length=16,
        batch=16,
        steps=STEPS,
        rate=1e-2,
        devices=1,
        evaluate_every=STEPS,
        evaluate_windows=16,
        save_every=50,
    )
    run = resolve(settings, tmp_path_factory.mktemp("trained"))
    recovery = Recovery(save_every=50, check_every=10, healthy_after=50)
    return run, execute(run, drive=partial(loop_with_recovery, recovery=recovery))


def test_a_spike_is_noticed_and_the_run_recovers(trained, tmp_path):
    before = sorted(path.name for path in (trained[0].folder / "checkpoints").iterdir())
    found = rehearse(*trained, tmp_path / "copy", Plan(every=10, lead=15, bound=32, after=80))
    gate = rollback_gate(found)
    assert gate.passed, gate.text
    left = [int(path.name) for path in (tmp_path / "copy" / "checkpoints").iterdir() if path.name.isdigit()]
    assert found.restored not in left, "the checkpoint was to be superseded by then"
    assert found.began == 170
    assert found.times == 1
    assert found.seen.startswith("the loss, smoothed, is"), "no spike but a number that is not finite"
    assert found.restored in (150, 160)
    steps = [step for step, _ in found.losses]
    assert steps[0] == STEPS + 1
    assert steps.count(found.restored + 1) == 2, "the steps after the checkpoint are taken again"
    last = {step: loss for step, loss in found.losses}
    spiked = max(loss for _, loss in found.losses)
    assert spiked > last[190] + 1
    assert before == sorted(path.name for path in (trained[0].folder / "checkpoints").iterdir()), "the run itself moved"


def test_a_trigger_that_has_no_time_to_fire_fails_the_gate(trained, tmp_path):
    found = rehearse(*trained, tmp_path / "copy", Plan(every=10, lead=15, bound=1, after=10))
    gate = rollback_gate(found)
    assert found.fired is None
    assert not gate.passed
    assert "the trigger did not fire" in gate.text
