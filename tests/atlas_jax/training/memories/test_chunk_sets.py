"""The decision on chunks: by the rule, on made-up figures; the file; and a real, tiny measurement."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import pytest

from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.training.memories import chunk_sets, training_speed
from atlas_jax.training.memories.chunk_sets import (
    BASELINE,
    SETS,
    ChunkSetError,
    baseline_config,
    decide,
    locked,
    read_decision,
    require_a_set,
    table,
    write_decision,
)
from atlas_jax.training.memories.training_speed import DoesNotFitError, TrainingSpeed

CONFIG = AtlasConfig(
    vocab_size=11,
    d_model=8,
    layers=1,
    heads=2,
    feed_forward=8,
    chunks=(64,),
    shard=128,
    global_chunk=128,
    tied=True,
    context=256,
)
EIGHT = (8,)
TINY = replace(CONFIG, rule="delta", network="linear", rate=0.5, chunks=(8,), shard=16, global_chunk=None, heads=1)


def figures(**speeds):
    """A measurement that gives a set its figure; of None there is too little memory."""
    by_chunks = {EIGHT if name == "eight" else SETS[name]: speed for name, speed in speeds.items()}

    def measure(config):
        if by_chunks[config.chunks] is None:
            raise DoesNotFitError("out of memory: made up")
        return by_chunks[config.chunks]

    return measure


@pytest.mark.parametrize(
    ("speeds", "chosen", "verdict"),
    [
        (
            {"eight": 100.0, "A": 600.0, "B": 900.0, "C": 700.0},
            "B",
            "locked: set B [16, 32, 64, 128] trains 9.00 times",
        ),
        ({"eight": 100.0, "A": 500.0, "B": None, "C": 400.0}, "A", "locked: set A [8, 16, 32, 64] trains 5.00 times"),
        (
            {"eight": 100.0, "A": 499.0, "B": 300.0, "C": 2.0},
            None,
            "stop: the fastest, set A [8, 16, 32, 64] trains 4.99",
        ),
        ({"eight": 100.0, "A": None, "B": None, "C": None}, None, "stop: no set fits"),
        ({"eight": None, "A": 9.0, "B": 9.0, "C": 9.0}, None, "stop: C = 8 does not fit, so that there is nothing"),
    ],
)
def test_the_fastest_that_fits_is_locked_where_it_is_five_times_as_fast(speeds, chosen, verdict):
    found = decide(CONFIG, figures(**speeds))
    assert found.chosen == chosen
    assert found.chunks == (None if chosen is None else SETS[chosen])
    assert found.verdict.startswith(verdict)
    assert [(row.name, row.tokens_per_second) for row in found.rows] == [
        (BASELINE, speeds["eight"]), ("A", speeds["A"]), ("B", speeds["B"]), ("C", speeds["C"]),
    ]  # fmt: skip
    if chosen is None:
        with pytest.raises(ChunkSetError, match="stop: "):
            locked(CONFIG, found)
    else:
        assert locked(CONFIG, found) == replace(CONFIG, chunks=SETS[chosen])


def test_the_baseline_is_one_memory_of_chunks_of_eight_over_the_whole_sequence():
    seen = []
    decide(replace(CONFIG, projection="norm_sum"), lambda config: seen.append(config) or 1.0)
    assert seen[0] == replace(CONFIG, chunks=(8,), shard=None, global_chunk=None)
    assert [(config.chunks, config.shard, config.projection) for config in seen[1:]] == [
        (chunks, 128, "norm_sum") for chunks in SETS.values()
    ]


def test_a_set_that_the_shard_cannot_hold_does_not_fit():
    found = decide(replace(CONFIG, shard=64, global_chunk=64), figures(eight=1.0, A=6.0, C=7.0))
    row = found.rows[2]
    assert (row.name, row.tokens_per_second, row.ratio) == ("B", None, None)
    assert "shard is 64, expected a multiple of chunk = 128" in row.reason
    assert found.chosen == "C"


@pytest.mark.parametrize(
    ("config", "length", "unmeasured"),
    [
        (CONFIG, 256, {}),
        (CONFIG, 255, dict.fromkeys("ABC", "shards are 128 tokens and a sequence 255")),
        (replace(CONFIG, shard=None, global_chunk=None), 127, {"B": "the chunk 128 is longer than a sequence, 127"}),
        (replace(CONFIG, shard=None, global_chunk=None), 128, {}),
    ],
)
def test_what_no_sequence_fills_is_not_timed(config, length, unmeasured):
    seen = []
    found = decide(config, lambda config: seen.append(config.chunks) or 1.0, length=length)
    assert seen == [EIGHT, *(chunks for name, chunks in SETS.items() if name not in unmeasured)]
    for row in found.rows[1:]:
        if row.name in unmeasured:
            assert row.tokens_per_second is None
            assert row.reason.startswith(f"not measured: {unmeasured[row.name]}")
        else:
            assert row.reason is None


def test_the_command_refuses_what_no_set_fits_before_it_measures_and_names_what_works(tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(TrainingSpeed, "__call__", lambda speed, config: seen.append(config.shard) or 1.0)
    out = ["--out", str(tmp_path / "decision.json")]
    assert chunk_sets.main(out) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no set of chunks fits (A: ")
    assert "shard is 16, expected a multiple of chunk = 32" in said
    assert not seen
    assert not (tmp_path / "decision.json").exists()
    works = said.split("choose ")[1].split()
    assert works == ["--config", "shard=128", "--length", "256"]
    assert chunk_sets.main([*works, *out]) == 1
    assert seen == [None, 128, 128, 128]


def test_what_was_measured_is_told_though_it_cannot_be_written_and_ctrl_c_ends_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(chunk_sets.TrainingSpeed, "__call__", lambda self, config: 100.0)
    given = ["--config", "shard=128", "--length", "256"]
    (tmp_path / "file").write_text("")
    assert chunk_sets.main([*given, "--out", str(tmp_path / "file" / "chunk_sets.json")]) == 2
    said = capsys.readouterr()
    assert "100" in said.out
    assert "file" in said.err

    def interrupted(self, config):
        raise KeyboardInterrupt

    monkeypatch.setattr(chunk_sets.TrainingSpeed, "__call__", interrupted)
    assert chunk_sets.main([*given, "--out", str(tmp_path / "chunk_sets.json")]) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"


def test_a_global_chunk_that_does_not_fit_the_shard_is_named_too():
    config = replace(CONFIG, chunks=(16,), shard=48, global_chunk=48)
    with pytest.raises(ChunkSetError, match=r"choose --config shard=128 global_chunk=128 --length 1024"):
        require_a_set(config, 1024)


def test_a_decision_comes_back_from_its_file(tmp_path):
    found = decide(CONFIG, figures(eight=100.0, A=600.0, B=None, C=700.0), measured={"batch": 2, "length": 4096})
    path = tmp_path / "made" / "decision.json"
    write_decision(found, path)
    back = read_decision(path)
    assert back == found
    assert locked(CONFIG, back).chunks == (8, 32, 64)
    assert [file.name for file in path.parent.iterdir()] == ["decision.json"], "written beside and renamed"
    content = json.loads(path.read_text())
    assert content["rows"][3] == {
        "name": "C",
        "chunks": [8, 32, 64],
        "tokens_per_second": 700.0,
        "ratio": 7.0,
        "reason": None,
    }
    assert content["machine"]["device"] == jax.devices()[0].device_kind
    assert content["machine"]["jax"] == jax.__version__
    assert content["measured"] == {"batch": 2, "length": 4096}
    assert content["model"] | {"chunks": (64,), "tile": CONFIG.tile} == asdict(CONFIG)


def test_a_failed_write_leaves_the_decision_before_it(tmp_path):
    path = tmp_path / "decision.json"
    found = decide(CONFIG, figures(eight=100.0, A=600.0, B=None, C=700.0))
    write_decision(found, path)
    with pytest.raises(ValueError, match="Out of range float values"):
        write_decision(replace(found, least_ratio=float("nan")), path)
    assert read_decision(path) == found


@pytest.mark.parametrize("content", [None, "{", "\xff", "[]", '{"rows": []}', '{"rows": [{"name": "A"}]}'])
def test_what_is_no_decision_is_named(tmp_path, content):
    path = tmp_path / "decision.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ChunkSetError, match=r"decision\.json: expected a decision on chunks"):
        read_decision(path)


def test_a_decision_of_another_model_is_not_used():
    found = decide(CONFIG, figures(eight=1.0, A=9.0, B=9.5, C=9.0))
    with pytest.raises(ChunkSetError, match=r"of another model: d_model 8 there, 16 here; measure again"):
        locked(replace(CONFIG, d_model=16), found)
    assert locked(replace(CONFIG, chunks=(8,), tile=32), found).chunks == SETS["B"]


def test_the_table_has_a_line_for_every_set():
    lines = table(decide(CONFIG, figures(eight=1234.5, A=6789.0, B=None, C=1.0))).splitlines()
    assert [line.split()[0] for line in lines] == ["set", "C", "A", "B", "C", "locked:"]
    assert "6,789" in lines[2]
    assert "5.50" in lines[2]
    assert lines[3].split()[-4:] == ["of", "memory:", "made", "up"]


def test_a_real_step_is_measured_and_the_rule_applied_to_it():
    """No hierarchy is a million times as fast: the protocol has to say stop."""
    speed = TrainingSpeed(batch=1, length=32, steps=3, warm=1)
    found = decide(TINY, speed, sets={"small": (16,)}, least_ratio=1e6, length=32, measured=speed._asdict())
    baseline, small = found.rows
    assert baseline.tokens_per_second > 10
    assert small.tokens_per_second > 10
    assert small.ratio == pytest.approx(small.tokens_per_second / baseline.tokens_per_second)
    assert found.chosen is None
    assert found.verdict.startswith("stop: the fastest, set small [16] trains")
    assert found.measured == {"batch": 1, "length": 32, "steps": 3, "warm": 1}


def test_speed_is_that_of_the_median_step_and_compilation_is_not_in_it(monkeypatch):
    """A clock that says 100 s for the first step, then 1, 4 and 1 s."""
    times = iter([0.0, 100.0, 100.0, 101.0, 101.0, 105.0, 105.0, 106.0])
    monkeypatch.setattr(training_speed.time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(training_speed, "make_step", lambda loss, optimizer: lambda state, batch, rate: (state, {}))
    assert TrainingSpeed(batch=2, length=8, steps=3, warm=1)(TINY) == 16.0


def test_too_little_memory_is_a_set_that_does_not_fit_and_other_errors_are_not():
    def too_much(config):
        with training_speed._out_of_memory():
            jax.block_until_ready(jax.jit(lambda: jnp.zeros((2**46,), jnp.float32))())

    assert decide(CONFIG, too_much).rows[0].reason.startswith("out of memory: RESOURCE_EXHAUSTED")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: other"), training_speed._out_of_memory():
        raise jax.errors.JaxRuntimeError("INTERNAL: other")


def test_the_baseline_has_the_width_and_layers_of_the_hierarchy():
    baseline = baseline_config(CONFIG)
    kept = ("d_model", "layers", "heads", "feed_forward", "rule", "network", "block", "dtype", "recompute")
    assert all(getattr(baseline, name) == getattr(CONFIG, name) for name in kept)
