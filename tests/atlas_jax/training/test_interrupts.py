"""Ctrl-C and SIGTERM are heard where work can stop; what is ignored stays so, and in the end all is as it was."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from atlas_jax.training.interrupts import Interrupts


@pytest.fixture(autouse=True)
def usual():
    """As in a terminal: a test run in the background inherits that Ctrl-C is ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


def test_sigterm_is_heard_as_often_as_it_comes():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        assert not interrupts()
        for _ in range(2):
            send(signal.SIGTERM)
        assert interrupts()
        assert interrupts.heard == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_is_not_waited_for_and_the_first_signal_is_told():
    with Interrupts() as interrupts:
        send(signal.SIGTERM)
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert interrupts.heard == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGINT, "\nstopping after this step; Ctrl-C once more: at once\n"),
        (signal.SIGTERM, "\nstopping after this step\n"),
    ],
)
def test_the_first_signal_is_answered_once_and_the_second_of_ctrl_c_stops(number, said, capfd):
    with Interrupts():
        send(number)
        assert capfd.readouterr().err == said
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                send(number)
        else:
            send(number)
    assert capfd.readouterr().err == ""


def test_a_signal_is_heard_where_nobody_reads_the_answer():
    kept = os.dup(2)
    os.close(2)
    try:
        with Interrupts() as interrupts:
            send(signal.SIGTERM)
            assert interrupts()
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_what_is_ignored_stays_ignored_and_what_is_not_asked_for_is_left():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts((signal.SIGINT,)) as interrupts:
        send(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not interrupts()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_hear_nothing():
    def listen():
        with Interrupts():
            found.append(signal.getsignal(signal.SIGTERM))

    found = []
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
