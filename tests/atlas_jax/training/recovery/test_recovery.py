"""Rollbacks: faults are survived or named, nothing acknowledged is lost, and an interrupted run is as an undisturbed one."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from atlas_jax.training import Checkpointer, CheckpointError, Telemetry, adamw, init_state, make_step, train
from atlas_jax.training.recovery.faults import CorruptBatches, FullDisk, nan_gradient, truncate_checkpoint, wrong_rate
from atlas_jax.training.recovery.recovery import (
    Recovery,
    RecoveryError,
    loop_with_recovery,
    train_with_recovery,
)
from atlas_jax.training.recovery.rollback import Rollback, rollbacks, write_rollbacks
from atlas_jax.training.recovery.trigger import Trigger

STEPS = 60
QUICK = Recovery(trigger=Trigger(horizon=4, calibration=10), save_every=6, check_every=4, healthy_after=8)
WEIGHTS = np.arange(8, dtype=np.float32)[:, None] / 8


class Source:
    """Noisy measurements of a linear map, drawn anew for each position."""

    def at(self, position):
        generator = np.random.default_rng(position)
        x = generator.normal(size=(256, 8)).astype(np.float32)
        return {"x": x, "y": x @ WEIGHTS + generator.normal(size=(256, 1)).astype(np.float32)}


def loss(params, batch, key):
    noise = 1e-3 * jax.random.normal(key)
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2) + noise, {}


def start():
    return init_state({"w": jnp.zeros((8, 1))}, adamw(), jax.random.key(3))


def rate(count):
    return 0.05


def louder(batch):
    """Corrupt, but finite."""
    return {**batch, "y": 1e4 * batch["y"]}


class Outcome:
    """The end of a run, what it told, and what it left on disk."""

    def __init__(self, folder, *, step=None, batches=None, schedule=rate, recovery=QUICK, steps=STEPS, **options):
        folder.mkdir(exist_ok=True)
        self.folder, self.events, self.told = folder, [], []
        self.state = options.pop("state", None) or start()
        checkpoints = options.pop("checkpoints", None) or Checkpointer(folder / "checkpoints", keep=5)
        with checkpoints, Telemetry(folder / "metrics.jsonl", 7) as telemetry:
            for event in train_with_recovery(
                step or make_step(loss, adamw()),
                self.state,
                batches or Source(),
                schedule,
                steps=steps,
                checkpoints=checkpoints,
                recovery=recovery,
                hooks=[telemetry, *options.pop("hooks", ())],
                logs=[telemetry],
                restored=self.tell,
                **options,
            ):
                self.events.append(event.index)
                self.state = event.state
            self.healthy, self.kept = checkpoints.healthy_steps(), checkpoints.steps()
            self.extra = checkpoints.restore(self.state)[1]

    def tell(self, step, extra):
        self.told.append(step)
        write_rollbacks(self.folder / "rollbacks.jsonl", extra)

    def lines(self):
        rows = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in row.items() if name != "time"} for row in rows]

    def bits(self):
        leaves = jax.tree.leaves(self.state._replace(key=jax.random.key_data(self.state.key)))
        return [np.asarray(leaf).tobytes() for leaf in leaves]

    def error(self):
        return float(np.abs(self.state.params["w"] - WEIGHTS).max())


def assert_equal_runs(found, expected):
    assert found.bits() == expected.bits()
    assert found.lines() == expected.lines()
    assert found.extra == expected.extra
    assert (found.healthy, found.kept) == (expected.healthy, expected.kept)


def test_without_a_fault_it_is_the_plain_loop(tmp_path):
    run = Outcome(tmp_path, extra=lambda: {"config": "mine"})
    plain = list(train(make_step(loss, adamw()), start(), Source(), rate, steps=STEPS))
    chex.assert_trees_all_close(run.state.params, plain[-1].state.params, rtol=1e-6)
    assert run.events == [row["step"] for row in run.lines()] == list(range(1, STEPS + 1))
    assert run.kept == [36, 42, 48, 54, 60]
    assert run.healthy == [36, 42, 48]  # 54 and 60 have not been followed by 8 steps
    assert run.extra["config"] == "mine"
    assert rollbacks(run.extra) == ()
    assert run.error() < 0.15


def test_a_nan_gradient_is_undone_and_its_batches_skipped(tmp_path):
    step = chex.assert_max_traces(nan_gradient(make_step(loss, adamw()), position=27), n=1)
    run = Outcome(tmp_path, step=step)
    # The step from 27 to 28 is the bad one; 18 is the newest checkpoint that 8 good steps had followed.
    seen = "grad_norm is nan, update_norm is nan"
    assert rollbacks(run.extra) == (Rollback(28, seen, 18, "skip", 18, 27, 1.0),)
    assert run.told == [18]
    assert json.loads((tmp_path / "rollbacks.jsonl").read_text())["restored"] == 18
    assert run.events == [*range(1, 28), *range(19, STEPS + 1)]
    assert (int(run.state.step), int(run.state.position)) == (STEPS, STEPS + 10)
    assert [row["step"] for row in run.lines()] == list(range(1, STEPS + 1))
    assert not any("nonfinite" in row for row in run.lines())
    assert run.extra["recovery"]["trigger"]["seen"] == STEPS, "the trigger has seen steps of the abandoned course"
    assert abs(run.error() - Outcome(tmp_path / "clean").error()) < 0.1


def test_a_corrupt_batch_is_skipped_whether_its_loss_is_finite_or_not(tmp_path):
    for name, corrupt in {"nan": {}, "loud": {"corrupt": louder}}.items():
        run = Outcome(tmp_path / name, batches=CorruptBatches(Source(), [33], **corrupt))
        (record,) = rollbacks(run.extra)
        assert (record.fired, record.restored, record.first_skipped, record.last_skipped) == (34, 24, 24, 33)
        assert ("loss is nan" in record.seen) == (name == "nan")
        assert ("smoothed" in record.seen) == (name == "loud")
        assert run.error() < 0.15


def test_a_wrong_rate_is_lowered_without_compiling_again(tmp_path):
    step = chex.assert_max_traces(make_step(loss, adamw()), n=1)
    slow = replace(QUICK, response="slow", slower=0.02)
    run = Outcome(tmp_path, step=step, schedule=wrong_rate(rate, 50.0, 30), recovery=slow)
    (record,) = rollbacks(run.extra)
    assert (record.restored, record.rate_scale) == (24, 0.02)
    assert record.first_skipped is None
    assert int(run.state.position) == STEPS
    assert run.error() < 0.15


@pytest.mark.parametrize("response", ["slow", "skip"])
def test_a_hopeless_rate_stops_with_the_whole_story(tmp_path, response):
    hopeless = replace(QUICK, response=response)
    with pytest.raises(RecoveryError) as raised:
        Outcome(tmp_path, schedule=wrong_rate(rate, 1e4, 34), recovery=hopeless)
    message = str(raised.value)
    assert "Rollbacks so far: 3 of at most 3" in message
    assert "the loss, smoothed, is" in message
    assert message.count("to step 24") == 3
    assert ("learning rate times 0.125" in message) == (response == "slow")
    assert ("batches 24 to" in message) == (response == "skip")
    assert f'response="{"skip" if response == "slow" else "slow"}"' in message
    with Checkpointer(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.healthy_steps()[-1] == 24


class Killed(Exception):
    pass


class KilledWhile(Checkpointer):
    """Ends at its n-th call of a method, before it or after it has done its work."""

    def __init__(self, directory, method, calls, after):
        super().__init__(directory, keep=5)
        inner = getattr(self, method)

        def call(*args):
            self.left -= 1
            if self.left == 0 and not after:
                raise Killed
            result = inner(*args)
            if self.left == 0:
                raise Killed
            return result

        self.left = calls
        setattr(self, method, call)


FAULTY = {
    "batches": CorruptBatches(Source(), [20, 45], louder),
    "extra": lambda: {"config": 1},
}
PLACES = [(method, 1, after) for method in ("abandon_after", "amend") for after in (False, True)]
PLACES += [("amend", 2, True), ("save", 1, True), ("save", 4, True), ("save", 7, False), ("mark_healthy", 4, True)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = Outcome(tmp_path_factory.mktemp("undisturbed"), **FAULTY)
    assert len(rollbacks(run.extra)) == 2
    return run


@pytest.mark.parametrize(("method", "calls", "after"), PLACES)
def test_killed_anywhere_and_started_again_equals_undisturbed(tmp_path, undisturbed, method, calls, after):
    with pytest.raises(Killed):
        Outcome(tmp_path, checkpoints=KilledWhile(tmp_path / "checkpoints", method, calls, after), **FAULTY)
    assert_equal_runs(Outcome(tmp_path, **FAULTY), undisturbed)


@pytest.mark.parametrize("at", [3, 17, 22, 40])
def test_stopped_at_a_step_and_started_again_equals_undisturbed(tmp_path, undisturbed, at):
    def stop(event):
        if event.index == at:
            raise Killed

    with pytest.raises(Killed):
        Outcome(tmp_path, hooks=[stop], **FAULTY)
    assert_equal_runs(Outcome(tmp_path, **FAULTY), undisturbed)


class Until:
    """Options of a run that is asked to end once it has completed that many steps."""

    def __init__(self, at):
        self.at, self.seen = at, 0
        self.options = {"hooks": [self.see], "interrupted": lambda: self.seen >= self.at}

    def see(self, event):
        self.seen = event.index


def test_interrupted_politely_it_saves_and_later_ends_as_undisturbed(tmp_path, undisturbed):
    # Enough steps have followed 27 when the second batch strikes; an undisturbed run goes back to 24.
    for at in (22, 27):
        run = Outcome(tmp_path, **Until(at).options, **FAULTY)
        assert run.events[-1] == run.kept[-1] == at
    run = Outcome(tmp_path, **FAULTY)
    assert run.events[0] == 28
    assert (run.bits(), run.lines(), run.extra) == (undisturbed.bits(), undisturbed.lines(), undisturbed.extra)


def test_a_run_that_was_at_its_limit_still_is_when_started_again(tmp_path):
    options = {"batches": CorruptBatches(Source(), [15, 30, 45, 58], louder)}
    for _ in range(2):
        with pytest.raises(RecoveryError, match="Rollbacks so far: 3 of at most 3"):
            Outcome(tmp_path, **options)


def test_only_a_checkpoint_that_steps_have_followed_is_gone_back_to(tmp_path):
    patient = replace(QUICK, healthy_after=24)
    run = Outcome(tmp_path, batches=CorruptBatches(Source(), [37]), recovery=patient)
    assert [record.restored for record in rollbacks(run.extra)] == [12]  # 18 and later: not yet 24 steps
    early = Outcome(tmp_path / "early", batches=CorruptBatches(Source(), [20]), recovery=patient)
    assert [record.restored for record in rollbacks(early.extra)] == [0]  # the first state counts as healthy


def test_the_newest_healthy_checkpoint_stays_and_its_mark_goes_with_it(tmp_path):
    with Checkpointer(tmp_path, keep=2) as checkpoints:
        for step in range(5):
            checkpoints.save(step, {"w": jnp.zeros(2)}, {})
            if step == 1:
                checkpoints.mark_healthy(step)
        assert checkpoints.steps() == [1, 3, 4]
        checkpoints.mark_healthy(3)
        checkpoints.save(5, {"w": jnp.zeros(2)}, {})
        assert (checkpoints.steps(), checkpoints.healthy_steps()) == ([3, 4, 5], [3])
    with Checkpointer(tmp_path, keep=2) as checkpoints:
        assert checkpoints.healthy_steps() == [3]
        checkpoints.save(3, {"w": jnp.ones(2)}, {})
        assert (checkpoints.steps(), checkpoints.healthy_steps()) == ([3], [])
        with pytest.raises(ValueError, match=r"mark_healthy: step=4, expected one of the checkpoints \[3\]"):
            checkpoints.mark_healthy(4)
        assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_an_amendment_replaces_the_extra_and_damage_to_it_is_seen(tmp_path):
    state = {"w": jnp.zeros(2)}
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, state, {"a": 1})
        checkpoints.save(2, state, {"a": 2})
        checkpoints.amend(2, {"a": 0.1, "é": [None]})
        assert checkpoints.restore(state)[1:] == ({"a": 0.1, "é": [None]}, 2)
        with pytest.raises(ValueError, match="amend: step=3"):
            checkpoints.amend(3, {})
        written = tmp_path / "2" / "amended.json"
        written.write_text(written.read_text().replace("0.1", "0.2"))
        with pytest.raises(CheckpointError, match=r"cannot read .*/2: amended.json is damaged"):
            checkpoints.restore(state, step=2)
        checkpoints.abandon_after(1)
        assert checkpoints.steps() == [1]


def test_a_full_disk_is_warned_of_and_training_goes_on(tmp_path, caplog):
    checkpoints = FullDisk(tmp_path / "checkpoints", keep=5, full_at=[18, 24, 48])
    with caplog.at_level(logging.WARNING):
        run = Outcome(tmp_path, checkpoints=checkpoints, batches=CorruptBatches(Source(), [33]))
    assert caplog.text.count("no space left on the disk") == 5  # of 18 and 24 again after the rollback
    assert [record.restored for record in rollbacks(run.extra)] == [12]
    assert run.kept == [30, 36, 42, 54, 60]
    assert run.error() < 0.15


def test_a_disk_that_stays_full_ends_the_run_with_what_is_there(tmp_path):
    with pytest.raises(CheckpointError) as raised:
        Outcome(tmp_path, checkpoints=FullDisk(tmp_path / "checkpoints", keep=5, full_at=range(18, 99)))
    message = str(raised.value)
    assert "step 36: cannot save" in message
    assert "no space left on the disk" in message
    assert "one after the other: 4; checkpoints that are there: [0, 6, 12]" in message
    with pytest.raises(CheckpointError, match="step 60: cannot save"):
        Outcome(tmp_path, checkpoints=FullDisk(tmp_path / "checkpoints", keep=5, full_at=[60]))
    with pytest.raises(CheckpointError, match=r"cannot save .*/0: no space left"):
        Outcome(tmp_path / "new", checkpoints=FullDisk(tmp_path / "new" / "checkpoints", keep=5, full_at=[0]))


def test_truncated_checkpoints_are_passed_over_at_a_start_and_at_a_rollback(tmp_path, undisturbed, caplog):
    Outcome(tmp_path, **Until(43).options, **FAULTY)
    truncate_checkpoint(tmp_path / "checkpoints", 43)
    run = Outcome(tmp_path, **FAULTY)
    assert run.told[0] == 42
    assert "going back to the checkpoint before it" in caplog.text
    assert_equal_runs(run, undisturbed)

    def truncate(event):
        if event.index == 33:
            truncate_checkpoint(tmp_path / "second" / "checkpoints", 24)

    run = Outcome(tmp_path / "second", hooks=[truncate], batches=CorruptBatches(Source(), [33]))
    assert [(record.fired, record.restored) for record in rollbacks(run.extra)] == [(34, 18)]
    assert run.error() < 0.15


def test_nothing_healthy_to_read_is_an_error(tmp_path):
    def truncate(event):
        if event.index == 33:
            for step in (6, 12, 18, 24, 30):
                truncate_checkpoint(tmp_path / "checkpoints", step)

    with pytest.raises(RecoveryError, match=r"step 34: .*loss is nan.*no healthy checkpoint.*\[6, 12, 18, 24\] are"):
        Outcome(tmp_path, hooks=[truncate], batches=CorruptBatches(Source(), [33]))


def test_a_state_over_a_mesh_returns_to_its_devices(tmp_path):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    split = NamedSharding(mesh, PartitionSpec("d"))
    state = init_state({"w": jax.device_put(np.zeros((8, 1), np.float32), split)}, adamw(), jax.random.key(3))
    step = chex.assert_max_traces(nan_gradient(make_step(loss, adamw()), position=27), n=1)
    seen = set()
    run = Outcome(tmp_path, step=step, state=state, hooks=[lambda event: seen.add(event.state.params["w"].sharding)])
    assert seen == {split}
    assert all(leaf.sharding.mesh == mesh for leaf in jax.tree.leaves(run.state))
    (record,) = rollbacks(run.extra)
    assert record.restored == 18
    one = Outcome(tmp_path / "one", step=nan_gradient(make_step(loss, adamw()), position=27))
    chex.assert_trees_all_close(jax.device_get(run.state.params), jax.device_get(one.state.params), rtol=1e-4)


def test_checkpoints_of_four_devices_go_on_on_one_and_the_reverse(tmp_path):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    split = NamedSharding(mesh, PartitionSpec("d"))

    def spread():
        return init_state({"w": jax.device_put(np.zeros((8, 1), np.float32), split)}, adamw(), jax.random.key(3))

    whole = Outcome(tmp_path / "whole")
    for name, first, second in (("narrower", spread, start), ("wider", start, spread)):
        Outcome(tmp_path / name, state=first(), steps=30)
        run = Outcome(tmp_path / name, state=second())
        assert run.events[0] == 31
        chex.assert_trees_all_close(jax.device_get(run.state.params), jax.device_get(whole.state.params), rtol=1e-4)


def test_a_state_that_is_given_up_leaves_the_device_before_another_comes(tmp_path):
    step, given, kept = jax.jit(make_step(loss, adamw())), [], []
    source = CorruptBatches(Source(), [33])

    def make_advance(state, scale):
        assert not kept or kept[-1].params["w"].is_deleted()
        given.append((int(state.step), int(state.position), scale))
        ahead = int(state.position) - int(state.step)
        return lambda index, state: step(state, source.at(index + ahead), scale * rate(index))

    fresh = start()
    options = {"recovery": replace(QUICK, response="slow", most_rollbacks=1), "hooks": [lambda e: kept.append(e.state)]}
    for first, scales in ((0, [1.0, 0.5]), (30, [0.5])):  # the second run is at its limit already
        with Checkpointer(tmp_path, keep=5) as checkpoints, pytest.raises(RecoveryError, match="1 of at most 1"):
            list(loop_with_recovery(make_advance, fresh, steps=STEPS, checkpoints=checkpoints, **options))
        assert [scale for _, _, scale in given] == scales
        assert given[0][0] == first
        assert given[-1][:2] == ((24, 24) if first == 0 else (30, 30))
        given.clear()
        kept.clear()
        assert fresh.params["w"].is_deleted() == (first == 30)


def test_wrong_settings_are_named(tmp_path):
    for options, message in [
        ({"save_every": 0}, "save_every is 0"),
        ({"slower": 1.0}, "slower is 1.0"),
        ({"most_rollbacks": -1}, "most_rollbacks is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            Recovery(**options)
    with pytest.raises(ValueError, match="extra holds 'recovery'"):
        Outcome(tmp_path, extra=lambda: {"recovery": 1})
    with pytest.raises(
        ValueError, match="healthy_after is 8, expected at most 1 x save_every = 6: 2 checkpoints are kept"
    ):
        Outcome(tmp_path, checkpoints=Checkpointer(tmp_path / "few", keep=2))


class Stages:
    """A source whose loss triples for good where stage two begins, as with other chunks."""

    def __init__(self, start):
        self.start = start

    def at(self, position):
        batch = Source().at(position)
        second = position >= self.start
        return {**batch, "y": batch["y"] * (3 if second else 1), "stage": np.full((1,), 2 if second else 1, np.int32)}


def test_another_stage_may_have_another_loss(tmp_path):
    """The same rise fires where it is no stage, and the trigger knows the losses of the stage alone."""

    def staged(params, batch, key):
        value, aux = loss(params, batch, key)
        return value, {**aux, "stage": batch["stage"][0].astype(jnp.float32)}

    def unstaged(params, batch, key):
        return loss(params, batch, key)

    run = Outcome(tmp_path / "staged", step=make_step(staged, adamw()), batches=Stages(40))
    assert rollbacks(run.extra) == ()
    assert run.extra["recovery"]["trigger"]["seen"] == STEPS - 40
    assert run.extra["recovery"]["stage"] == 2
    with pytest.raises(RecoveryError):
        Outcome(tmp_path / "unstaged", step=make_step(unstaged, adamw()), batches=Stages(40))
