"""What a run keeps to go on from, and when it refuses to."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from small_world import TINY, corpus_of, markov_rows

from validation import api, runner
from validation.assemble import Request
from validation.datasets import open_dataset
from validation.prepare import prepare
from validation.progress import Display
from validation.runner import StateError


@pytest.fixture
def interrupted(tmp_path):
    """A request and its problem, with a state that holds something."""
    rows = markov_rows(700, 60)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    request = Request(open_dataset(data), None, TINY, tmp_path / "out", 0, 50.0, None, False, {})
    problem = prepare(corpus_of(rows), None, TINY, seed=0)
    folder = runner._state(request, problem)
    (folder / "tier-1").mkdir()
    return replace(request, resume=True), problem


def test_the_same_run_goes_on(interrupted):
    request, problem = interrupted
    assert (runner._state(request, problem) / "tier-1").exists()
    # Without --resume it starts anew.
    assert not (runner._state(replace(request, resume=False), problem) / "tier-1").exists()


class Stopped(Exception):
    """Where the run would begin."""


@pytest.mark.parametrize(("memory", "expected"), [(None, None), (0.9, "0.90")])
def test_a_profile_s_share_of_memory_is_set_before_the_run(interrupted, monkeypatch, memory, expected):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "")  # so that what the run sets is undone
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION")

    def begin(request, progress):
        assert os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") == expected
        raise Stopped

    monkeypatch.setattr(api, "run", begin)
    request = replace(interrupted[0], profile=replace(TINY, memory=memory))
    with pytest.raises(Stopped):
        api.run_and_write(request, Display())


@pytest.mark.parametrize("change", ["seed", "profile", "data", "format"])
def test_the_state_of_another_run_is_refused_by_name(interrupted, change, monkeypatch):
    request, problem = interrupted
    if change == "seed":
        request = replace(request, seed=1)
    elif change == "profile":
        request = replace(request, profile=replace(TINY, held_out_windows=16))
    elif change == "data":
        problem = prepare(corpus_of(markov_rows(700, 61)), None, TINY, seed=0)
    else:
        monkeypatch.setattr(runner, "FORMAT", runner.FORMAT + 1)
    with pytest.raises(
        StateError, match=rf"cannot resume from .*: .*{change}.* differ from the interrupted run"
    ) as error:
        runner._state(request, problem)
    assert "leave out --resume to start anew" in str(error.value)
    assert (request.out / "state" / "tier-1").exists()  # nothing is lost by asking
