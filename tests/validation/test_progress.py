"""What is shown while a run works, and when it heeds Ctrl-C."""

from __future__ import annotations

import io
import os
import signal

import pytest
from rich.console import Console

from validation import progress
from validation.progress import Display


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C as in a terminal: a test run in the background inherits that it is ignored."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_waits_for_the_step_to_end(console):
    usual = signal.getsignal(signal.SIGINT)

    def train(display):
        display.plan(10.0)
        interrupt()  # in the middle of a step
        display.training("tier 1 of 3", "models 1-10 of 18", 0.5, 10.0, 5.0)

    display = Display(console)
    with pytest.raises(KeyboardInterrupt), display:
        train(display)
    assert signal.getsignal(signal.SIGINT) is usual


def test_a_second_ctrl_c_is_not_waited_for(console):
    display = Display(console)
    display.plan(10.0)
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupt()


def test_where_ctrl_c_is_ignored_it_stays_ignored(console):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Display(console) as display:
        display.plan(10.0)
        interrupt()
        display.training("tier 1 of 3", "models 1-10 of 18", 0.5, 10.0, 5.0)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_before_training_ctrl_c_stops_at_once(console):
    def read(display):
        display.stage("reading")
        interrupt()
        display.finished("must not be reached")

    display = Display(console)
    with pytest.raises(KeyboardInterrupt), display:
        read(display)
    assert console.file.getvalue() == "reading\n"


def test_without_a_terminal_there_is_a_line_every_ten_seconds(console, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Display(console, title="copy · ") as display:
        display.plan(100.0)
        for second in range(0, 21):
            clock[0] = float(second)
            display.training("tier 1 of 3", "models 1-10 of 18", second / 40, 100.0, 5.25)
        display.finished("tier 1 complete")
    lines = console.file.getvalue().splitlines()
    assert [line.split(" · ")[3] for line in lines[:-1]] == ["28% of their steps"]
    assert "loss 5.25 bits/token · about 29 s left" in lines[0]
    assert lines[-1] == "copy · tier 1 complete"
