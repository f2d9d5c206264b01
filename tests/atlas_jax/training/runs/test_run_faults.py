"""The command and what can befall it: signals, kill -9, full disks, damaged checkpoints, faults. All is told, nothing is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import chex
import jax
import numpy as np
import pytest

import atlas_jax.training.__main__ as command
from atlas_jax.training import Checkpointer
from atlas_jax.training.recovery.faults import CorruptBatches, nan_gradient, truncate_checkpoint, wrong_rate
from atlas_jax.training.recovery.recovery import Recovery, loop_with_recovery
from atlas_jax.training.recovery.rollback import write_rollbacks
from atlas_jax.training.recovery.trigger import Trigger
from atlas_jax.training.runs.execution import execute, plain_step
from atlas_jax.training.runs.progress import Display
from atlas_jax.training.runs.run import KEPT, alone, reopen

TIMES = ("time", "tokens_per_second")
LOGS = ("metrics.jsonl", "held_out.jsonl", "events.jsonl", "rollbacks.jsonl")
MODEL = ["--model", "transformer", "--preset", "micro-32", "--length", "16", "--devices", "1", "--rate", "1e-2"]
MODEL += ["--config", "d_model=16", "layers=1", "heads=1", "feed_forward=16", "--probe-every", "0"]
SHORT = ["--steps", "24", "--save-every", "6", "--evaluate-every", "12", "--evaluate-windows", "8"]
LONG = ["--steps", "200", "--save-every", "10", "--evaluate-every", "50", "--evaluate-windows", "8"]
MANY = ["--steps", "1000", "--save-every", "10", "--evaluate-every", "150", "--evaluate-windows", "8"]
FULL = "error: [Errno 28] No space left on device: '{}'"
QUICK = Recovery(trigger=Trigger(horizon=4, calibration=10), save_every=6, check_every=6, healthy_after=12)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    jax.devices()  # the devices of all tests, before the command asks for one
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("".join(f"row {i} says {i * i % 97}\n" for i in range(3000)))
    return ["--data", str(path)]


def given(data, length, folder):
    return [*MODEL, *length, *data, "--out", str(folder)]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert command.main(given(data, SHORT, folder)) == 0
    return folder


def rows(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def numbers(state):
    return jax.device_get(state._replace(key=jax.random.key_data(state.key)))


def newest(folder):
    with Checkpointer(folder / "checkpoints", keep=KEPT) as checkpoints:
        state, extra, step = checkpoints.restore(reopen(folder).shapes)
        return numbers(state), extra, step, checkpoints.steps()


def assert_equal_runs(folder, other):
    """To the bit: parameters, optimizer, place in the data, trigger and rollbacks; and all lines but for the times."""
    found, expected = newest(folder), newest(other)
    chex.assert_trees_all_equal(found[0], expected[0])
    assert found[1:3] == expected[1:3]
    for name in ("metrics.jsonl", "held_out.jsonl", "rollbacks.jsonl"):
        assert rows(folder / name) == rows(other / name)
    assert all("event" in row for row in rows(folder / "events.jsonl"))


def at_step(monkeypatch, step, act):
    """Does something in the middle of a run, each time that step is taken."""
    usual = Display.__call__

    def called(display, event):
        usual(display, event)
        if event.index == step:
            act()

    monkeypatch.setattr(Display, "__call__", called)


# Signals


def test_sigterm_saves_and_the_same_command_goes_on_though_lines_are_torn(
    tmp_path, capsys, monkeypatch, data, undisturbed
):
    arguments = given(data, SHORT, tmp_path)

    def terminate():
        for _ in range(2):  # as `timeout` does
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        at_step(patch, 7, terminate)
        assert command.main(arguments) == 143
    said = capsys.readouterr().err
    assert "Terminated. Go on with: python -m atlas_jax.training --model transformer" in said
    assert newest(tmp_path)[2] == rows(tmp_path / "metrics.jsonl")[-1]["step"] == 7
    for name in LOGS:
        with (tmp_path / name).open("a") as file:
            file.write('{"step": 7, "los')
    assert command.main(arguments) == 0
    assert_equal_runs(tmp_path, undisturbed)
    assert [row["event"] for row in rows(tmp_path / "events.jsonl")].count("interrupted") == 1


# kill -9


SLOWED = """
import sys, time
import atlas_jax.training.__main__ as command
from atlas_jax.training.runs.progress import Display

usual = Display.__call__

def called(display, event):
    usual(display, event)
    if event.index >= int(sys.argv[1]):
        time.sleep(0.5)

Display.__call__ = called
sys.exit(command.main(sys.argv[2:]))
"""


def start(arguments, log, slow_from=None):
    """The command; slow_from: the step from which on it takes its time, lest it ends before it is killed."""
    program = ["-m", "atlas_jax.training"] if slow_from is None else ["-c", SLOWED, str(slow_from)]
    with log.open("a") as told:
        return subprocess.Popen([sys.executable, *program, *arguments], stdout=told, stderr=subprocess.STDOUT)


def saved(folder):
    found = [path.parent.name for path in (folder / "checkpoints").glob("[0-9]*/sums.json")]
    return max((int(name) for name in found if name.isdigit()), default=-1)


def half_saved(folder):
    """Whether there is a checkpoint that is not yet, or no longer, whole."""
    found = (folder / "checkpoints").glob("[0-9]*")
    return any("tmp" in path.name or not (path / "sums.json").exists() for path in found)


def wait(child, until, log):
    while not until():
        assert child.poll() is None, f"it ended before it was to be killed:\n{log.read_text()}"
        time.sleep(0.001)


def disturb(arguments, folder, log, chosen, number, *, early, inside):
    """Starts the command and kills it; returns whether that was in the middle of a save.

    Args: early: while it starts; inside: at once when a save has begun, after so many others that none is as likely.
    """
    before, saves = max(saved(folder), 0), chosen.randrange(1, 4)
    child = start(arguments, log, slow_from=before + 10 * saves + 5)
    try:
        if early:
            time.sleep(chosen.uniform(0, 4))
        else:
            wait(child, lambda: saved(folder) >= before + 10 * saves, log)
            if inside:
                wait(child, lambda: half_saved(folder), log)
            else:
                time.sleep(chosen.uniform(0, 0.05))
        child.send_signal(number)
        ended = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143}[number]
        assert child.wait() == ended, log.read_text()
    finally:
        child.kill()
        child.wait()
    return half_saved(folder)


def test_killed_terminated_and_killed_again_it_ends_as_undisturbed(tmp_path, data):
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "said.txt"
    assert command.main(given(data, LONG, whole)) == 0
    chosen, arguments = random.Random(1), given(data, LONG, broken)
    for number, inside in ((signal.SIGKILL, True), (signal.SIGTERM, False), (signal.SIGKILL, False)):
        disturb(arguments, broken, log, chosen, number, early=False, inside=inside)
    assert start(arguments, log).wait() == 0, log.read_text()
    assert "Terminated. Go on with:" in log.read_text()
    assert_equal_runs(broken, whole)


@pytest.mark.slow
def test_twenty_kills_at_any_moment_lose_nothing(tmp_path, data):
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "said.txt"
    undisturbed = start(given(data, MANY, whole), log)
    assert undisturbed.wait() == 0, log.read_text()
    chosen, within, acknowledged = random.Random(0), 0, -1
    for kill in range(20):
        early = kill % 5 == 2
        within += disturb(
            given(data, MANY, broken), broken, log, chosen, signal.SIGKILL, early=early, inside=kill % 2 == 0
        )
        assert saved(broken) >= acknowledged, f"kill {kill}: step {acknowledged} was saved"
        acknowledged = saved(broken)
    assert within >= 5, f"only {within} of the kills came within a save"
    assert start(given(data, MANY, broken), log).wait() == 0, log.read_text()
    assert_equal_runs(broken, whole)
    assert newest(broken)[3] == newest(whole)[3]


# Full disks


@pytest.mark.parametrize("name", ["held_out.jsonl", "events.jsonl"])  # metrics: below
def test_a_log_that_cannot_be_written_is_named_and_nothing_is_lost(
    tmp_path, capsys, monkeypatch, data, undisturbed, name
):
    path, aside = tmp_path / name, tmp_path / "aside"

    def fill():
        path.rename(aside)
        path.symlink_to("/dev/full")

    with monkeypatch.context() as patch:
        at_step(patch, 14, fill)
        assert command.main(given(data, SHORT, tmp_path)) == 2
    assert capsys.readouterr().err.splitlines()[-1] == FULL.format(path)
    aside.replace(path)
    assert command.main(given(data, SHORT, tmp_path)) == 0
    assert_equal_runs(tmp_path, undisturbed)


LIMITED = """
import resource, sys
from pathlib import Path
from atlas_jax.training.__main__ import main
from atlas_jax.training.runs.progress import Display

usual, folder, most = Display.__call__, Path(sys.argv[1]), int(sys.argv[2])

def limit(display, event):
    usual(display, event)
    if event.index == 14:
        size = most or (folder / "metrics.jsonl").stat().st_size + 500
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

Display.__call__ = limit
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (0, "error: [Errno 27] File too large: '{}/metrics.jsonl'"),  # in the middle of a line
        (40_000, "error: step 24: cannot save {}/checkpoints/24: "),
    ],
)
def test_what_grows_beyond_a_limit_is_named_and_nothing_is_lost(tmp_path, data, undisturbed, most, expected):
    arguments = given(data, SHORT, tmp_path)
    program = [sys.executable, "-c", LIMITED, tmp_path, str(most), *arguments]
    found = subprocess.run(program, capture_output=True, text=True, check=False)
    assert found.returncode == 2, found.stderr
    assert found.stderr.splitlines()[-1].startswith(expected.format(tmp_path)), found.stderr
    assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")
    assert command.main(arguments) == 0
    assert_equal_runs(tmp_path, undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(("recovery", "left"), [("skip", 0), ("skip", 60_000), ("none", 60_000)])
def test_a_disk_that_is_really_full(small_disk, capsys, monkeypatch, data, undisturbed, recovery, left):
    folder, ballast = small_disk / "run", small_disk / "ballast"
    arguments = [*given(data, SHORT, folder), "--recovery", recovery]

    def fill():
        free = os.statvfs(small_disk)
        ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - left))

    with monkeypatch.context() as patch:
        at_step(patch, 14, fill)
        assert command.main(arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    if left:  # for lines, but not for a checkpoint
        at = 24 if recovery == "skip" else 18
        assert said.startswith("error: ")
        assert f"cannot save {folder}/checkpoints/{at}: no space left on the disk" in said
    else:
        assert said == FULL.format(folder / "metrics.jsonl")
    assert command.main(arguments) == 2, "the disk is still full"
    assert "are free on its disk, expected" in capsys.readouterr().err
    ballast.unlink()
    assert command.main(arguments) == 0
    if recovery == "skip":
        assert_equal_runs(folder, undisturbed)
    else:
        chex.assert_trees_all_equal(newest(folder)[0], newest(undisturbed)[0])
        assert rows(folder / "metrics.jsonl") == rows(undisturbed / "metrics.jsonl")


# Damaged checkpoints


def cut(folder, step):
    truncate_checkpoint(folder / "checkpoints", step)


def remove_one(folder, step):
    next((folder / "checkpoints" / str(step)).rglob("manifest.ocdbt")).unlink()


@pytest.mark.parametrize(("damage", "recovery"), [(cut, "skip"), (cut, "none"), (remove_one, "skip")])
def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(tmp_path, caplog, data, undisturbed, damage, recovery):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    damage(folder, 24)
    assert command.main([*given(data, SHORT, folder), "--recovery", recovery]) == 0
    assert f"cannot read {folder}/checkpoints/24" in caplog.text
    assert "going back to the checkpoint before it" in caplog.text
    assert [row["step"] for row in rows(folder / "events.jsonl") if row["event"] == "resume"] == [18]
    chex.assert_trees_all_equal(newest(folder)[0], newest(undisturbed)[0])
    for name in ("metrics.jsonl", "held_out.jsonl"):
        assert rows(folder / name) == rows(undisturbed / name)


def test_where_all_checkpoints_are_damaged_it_says_so(tmp_path, capsys, data, undisturbed):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    steps = newest(folder)[3]
    for step in steps:
        cut(folder, step)
    for recovery in ("skip", "none"):
        assert command.main([*given(data, SHORT, folder), "--recovery", recovery]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == (
            f"error: {folder}/checkpoints: none of the checkpoints {steps} can be read; remove them to start anew"
        )
    assert rows(folder / "metrics.jsonl") == rows(undisturbed / "metrics.jsonl"), "lines of a lost run are still of use"


# Faults


FAULTS = ["--steps", "60", "--save-every", "6", "--evaluate-every", "60", "--evaluate-windows", "8"]


def broken_at(position):
    return lambda *arguments: nan_gradient(plain_step(*arguments), position)


@pytest.mark.parametrize("recovery", ["skip", "none"])
def test_a_nan_gradient_is_gone_back_from_or_ends_the_command(tmp_path, capsys, monkeypatch, data, recovery):
    monkeypatch.setattr(
        command, "execute", lambda run, **options: execute(run, **{**options, "make_run_step": broken_at(40)})
    )
    code = command.main([*given(data, FAULTS, tmp_path), "--recovery", recovery])
    if recovery == "none":
        assert code == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("error: step 41: ")
        assert "grad_norm is nan" in said
        assert newest(tmp_path)[2] == 36
        return
    assert code == 0
    (record,) = rows(tmp_path / "rollbacks.jsonl")
    assert (record["fired"], record["restored"]) == (41, 12)
    assert (record["first_skipped"], record["last_skipped"]) == (12, 40)
    assert [row["step"] for row in rows(tmp_path / "metrics.jsonl")] == list(range(1, 61))
    assert newest(tmp_path)[0].position == 60 + 29


def unheard_of(batch):
    """A byte that the text never has: right in form, and a loss far above any other."""
    return {**batch, "tokens": np.full_like(batch["tokens"], 255)}


def resolved(data, folder):
    """A run from the command's own settings, of no step yet."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "execute", lambda run, **options: made.append(run))
        patch.setattr(command, "_summary", lambda folder: "")
        assert command.main(given(data, FAULTS, folder)) == 0
    return made[0]


def recovered(run, recovery=QUICK):
    def told(step, extra):
        write_rollbacks(run.folder / "rollbacks.jsonl", extra)

    state = execute(run, drive=partial(loop_with_recovery, recovery=recovery), restored=told)
    (record,) = rows(run.folder / "rollbacks.jsonl")
    return state, record


def spiked(run):
    return run._replace(batches=CorruptBatches(run.batches, [40], unheard_of))


@pytest.fixture(scope="module")
def recovered_run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recovered") / "run"
    return folder, *recovered(spiked(resolved(data, folder)))


def test_a_corrupt_batch_with_a_loss_beyond_all_is_passed_over(recovered_run):
    folder, state, record = recovered_run
    assert "the loss, smoothed, is" in record["seen"]
    assert record["first_skipped"] < 40 <= record["last_skipped"]
    assert int(state.position) > int(state.step) == 60
    found = rows(folder / "metrics.jsonl")
    assert [row["step"] for row in found] == list(range(1, 61))
    assert max(row["loss"] for row in found[20:]) < found[10]["loss"], "a line of the abandoned course is left"


def test_a_rollback_that_cannot_be_written_down_is_named_and_taken_up(tmp_path, data, recovered_run):
    run = spiked(resolved(data, tmp_path))
    (tmp_path / "rollbacks.jsonl.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*rollbacks\.jsonl'$"):
        recovered(run)
    assert not (tmp_path / "rollbacks.jsonl").exists()
    recovered(run)
    assert_equal_runs(tmp_path, recovered_run[0])


def test_a_wrong_learning_rate_is_lowered(tmp_path, data):
    run = resolved(data, tmp_path)
    slow = Recovery(QUICK.trigger, "slow", save_every=6, check_every=6, healthy_after=12, slower=0.01)
    _, record = recovered(run._replace(schedule=wrong_rate(run.schedule, 100.0, 30)), slow)
    assert record["fired"] > 30
    assert (record["response"], record["rate_scale"]) == ("slow", 0.01)
    found = rows(tmp_path / "metrics.jsonl")
    assert found[-1]["loss"] < found[24]["loss"]


def test_what_was_passed_over_stays_so_without_recovery(recovered_run, tmp_path):
    """A run that went back goes on from its last checkpoint but one by the plain loop: as far ahead in its data as it was."""
    folder, state, _ = recovered_run
    shutil.copytree(folder, tmp_path / "run")
    with Checkpointer(tmp_path / "run" / "checkpoints", keep=KEPT) as checkpoints:
        before = checkpoints.steps()[-2]
        checkpoints.abandon_after(before)
    again = execute(reopen(tmp_path / "run"))
    assert int(again.position) == int(state.position)
    chex.assert_trees_all_equal(again.params, state.params)
    found = newest(tmp_path / "run")[1]["recovery"]
    assert [record["response"] for record in found["rollbacks"]] == ["skip"]


def test_two_processes_do_not_train_in_one_folder(data, undisturbed, capsys):
    with alone(undisturbed):
        assert command.main(given(data, SHORT, undisturbed)) == 2
    assert capsys.readouterr().err.endswith("another process trains in it, expected one at a time\n")
    assert command.main(given(data, SHORT, undisturbed)) == 0
