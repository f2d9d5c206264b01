"""Every gate passes on what is right and fails where one thing that it checks is not."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.models import atlas
from atlas_jax.training.gates_report.cost import chunk_gate, probe_gate
from atlas_jax.training.gates_report.course import crashes, far, needles_gate, reach, rollbacks_gate, steps_gate
from atlas_jax.training.gates_report.decoding import SIZES, Decoded, chunk_sizes_gate, decoded_gate, decoding_gate
from atlas_jax.training.gates_report.gate import summary
from atlas_jax.training.gates_report.rehearsal import Rehearsed, rollback_gate
from atlas_jax.training.gates_report.resets import Crossing, crossing_gate, gradient_gate, projection_gate
from atlas_jax.training.gates_report.settings import Defaults, Options, in_two_stages, run_settings, with_chunks
from atlas_jax.training.gates_report.training import TimedProbe
from atlas_jax.training.loop import Event
from atlas_jax.training.memories.chunk_sets import SETS, decide
from atlas_jax.training.needles.interval import choose_interval
from atlas_jax.training.runs.run_plot import rows_of

HIERARCHY = atlas.AtlasConfig(context=256, shard=128, global_chunk=128, projection="norm_sum")


def decision(ratio, config=HIERARCHY):
    return decide(config, lambda config: 100.0 if config.shard is None else 100.0 * ratio)


def test_chunk_sets_pass_where_one_is_locked():
    passed, slow = (chunk_gate(decision(ratio), SETS["A"]) for ratio in (6.0, 4.9))
    assert passed.passed
    assert passed.measured["chosen"] == "A"
    assert not slow.passed
    assert "4.90 times" in slow.text


def test_sets_that_no_shard_holds_are_told():
    small = atlas.AtlasConfig(shard=16, global_chunk=16)
    gate = chunk_gate(decision(9.0, small), (8,))
    assert not gate.passed
    assert "expected a multiple of chunk = 32" in gate.text
    assert "instead" not in gate.text


def test_a_run_with_other_chunks_than_those_locked_has_not_passed():
    gate = chunk_gate(decision(6.0), (16, 64))
    assert not gate.passed
    assert gate.text.endswith("; the run trained with [16, 64] instead")
    assert gate.measured["trained"] == [16, 64]


def probed(*, step=0.1, probe=0.2, seconds=0.2, due=500, steps=1000, compiling=0.0):
    rows = [{"tokens_per_second": 10 / step}] * steps
    probes = [{"step": due, "seconds": seconds, "compiling": compiling}]
    return probe_gate(choose_interval(step, probe), rows, probes, 10)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"probe": 3.0}, "none of 500"),  # no interval is cheap enough
        ({"seconds": 1.1}, "in the run 1.10%"),  # cheap when it was measured, not in the run
        ({"seconds": 0.95, "compiling": 10.0}, "in the run 1.06%"),  # compiling is no time of training
        ({"due": 400}, "no probe was due"),
    ],
)
def test_probes_pass_where_they_cost_little_as_measured_and_in_the_run(changed, said):
    assert probed().passed
    assert probed().measured["share_in_run"] == pytest.approx(0.002)
    gate = probed(**changed)
    assert not gate.passed
    assert said in gate.text


def test_a_run_without_probes_has_not_passed():
    assert not probe_gate(None, [], [], 10).passed


def course(steps=5):
    return [{"step": i + 1, "loss": 2.0} for i in range(steps)]


def went_back(seen):
    return [{"fired": 3, "seen": seen, "restored": 1}]


@pytest.mark.parametrize(
    ("metrics", "rollbacks", "events"),
    [
        ([*course(4), {"step": 5, "loss": None, "nonfinite": True}], [], []),
        (course(4), [], []),
        ([*course(4), {"step": 4, "loss": 2.0}], [], []),
        (course(), went_back("grad_norm is nan"), []),
        (course(), went_back("the loss is -inf"), []),
        (course(), [], ["start", "compiled", "resume", "finished"]),
        (course(), [], ["start", "compiled", "start", "finished"]),
    ],
    ids=["NaN", "too few", "twice", "NaN before a rollback", "infinity before one", "crash", "crash before a save"],
)
def test_all_steps_have_to_be_finite_and_without_a_crash(metrics, rollbacks, events):
    gate = steps_gate(metrics, rollbacks, [{"event": event} for event in events], 5)
    assert not gate.passed


def test_a_course_with_a_rollback_and_an_interruption_is_fine():
    events = [{"event": event} for event in ("start", "rollback", "interrupted", "resume", "finished")]
    assert steps_gate(course(), went_back("the loss, smoothed, is 3, 12% above its average"), events, 5).passed
    assert crashes(events) == 0


LENGTHS, DEPTHS = (32, 64), (0.0, 1.0)
FAR = far(LENGTHS, [20, 50], DEPTHS, 16)


def needles(right=0.9, control=None, lengths=LENGTHS, row=True):
    shares = np.full((2, 2), right)
    without = np.where(FAR, 0.1, right) if control is None else np.full((2, 2), control)
    found = {"step": 9, "niah_map": shares.tolist(), "niah_control_map": without.tolist(), "niah_memory_cosine": 0.4}
    return needles_gate(found if row else None, FAR, examples=8, context=64, lengths=lengths)


def test_only_needles_beyond_the_window_ask_for_memory():
    np.testing.assert_array_equal(FAR, [[True, False], [True, False]])
    assert not far((16,), (12,), DEPTHS, 16).any()


@pytest.mark.parametrize(
    ("block", "expected"), [("memory", 2 * 3), ("gate", 2 * (15 + 3)), ("layer", 2 * (15 + 3)), ("context", 7)]
)
def test_the_reach_is_that_of_all_layers(block, expected):
    assert reach(atlas.AtlasConfig(block=block, layers=2, window=16, chunks=(8,))) == expected


def test_a_needle_that_several_layers_of_attention_reach_asks_for_no_memory():
    config = atlas.AtlasConfig(block="gate", layers=3, window=16)
    found = far((128,), (120,), (0.0, 0.5, 0.6, 1.0), reach(config))
    np.testing.assert_array_equal(found, [[True, True, False, False]])


@pytest.mark.parametrize(
    "changed", [{"right": 0.8}, {"control": 0.9}, {"control": 0.85}, {"lengths": (32, 128)}, {"row": False}]
)
def test_needles_have_to_be_found_and_by_memory(changed):
    assert needles().passed
    assert "cosine in memory 0.400" in needles().text
    assert not needles(**changed).passed


def test_a_share_that_is_no_number_is_no_answer():
    row = {"step": 1, "niah_map": [[None, 1.0], [1.0, 1.0]], "niah_control_map": [[0.0, 0.0], [0.0, 0.0]]}
    assert needles_gate(row, FAR, examples=8, context=64, lengths=LENGTHS).measured["accuracy"] == 0.75


def test_needles_within_the_window_prove_no_memory():
    row = {"step": 1, "niah_map": [[1.0]], "niah_control_map": [[0.0]]}
    gate = needles_gate(row, np.zeros((1, 1), bool), examples=8, context=64, lengths=(16,))
    assert not gate.passed
    assert "no needle lies beyond the window" in gate.text


RECOVERED = Rehearsed(40, 32, 45, "the loss", 20, True, 1, 2.0, 2.01, [[41, 2.0]], [[40, 2.0]])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"fired": None, "restored": None}, "did not fire"),
        ({"fired": 73}, "corrupt step 33 of at most 32"),
        ({"fired": 40}, "corrupt step 0"),  # before anything was wrong
        ({"healthy": False}, "back to step 20"),
        ({"restored": 44}, "back to step 44"),
        ({"after": 2.03}, "2.0300 at the end"),
        ({"after": None}, "did not come to its end"),
    ],
)
def test_a_rollback_has_to_fire_go_back_and_recover(changed, said):
    assert rollback_gate(RECOVERED).passed
    gate = rollback_gate(RECOVERED._replace(**changed))
    assert not gate.passed
    assert said in gate.text
    assert not rollback_gate(None).passed


CROSSED = Crossing({".heads.weights": 0.0, ".projection.m": 0.0}, 0.3, (1.0, 2.0), 1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        {"local": {".heads.weights": 0.0, ".projection.m": 1e-30}},
        {"of_global": 0.0},
        {"parts": (0.0, 1.0)},
        {"error": 0.01},
        {"error": float("nan")},
    ],
)
def test_gradients_have_to_stop_for_local_memories_and_go_on_for_the_global_one(changed):
    assert crossing_gate(CROSSED).passed
    assert not crossing_gate(CROSSED._replace(**changed)).passed


@pytest.mark.parametrize(
    ("gate", "config", "said"),
    [
        (projection_gate, atlas.PRESETS["micro"], "the model has no projection; choose --preset micro-tnt"),
        (gradient_gate, atlas.PRESETS["micro"], "the model has no global memory; choose --preset micro-tnt"),
        (projection_gate, atlas.AtlasConfig(projection="per_key"), "nothing is ever reset"),
        (gradient_gate, atlas.AtlasConfig(shard=128, global_chunk=128), "no second shard is ever trained on"),
        (decoding_gate, atlas.PRESETS["micro"], "no reset is left out; choose --preset micro-tnt"),
    ],
)
def test_what_a_model_does_not_have_has_not_passed(gate, config, said):
    found = gate(config, {}, np.zeros((1, 128), np.int32))
    assert not found.passed
    assert said in found.text


def test_four_rollbacks_are_too_many():
    three = [{"fired": i} for i in range(3)]
    assert rollbacks_gate(three, 9, 9).passed
    assert not rollbacks_gate([*three, {"fired": 3}], 9, 9).passed
    assert not rollbacks_gate([], 8, 9).passed


def test_perplexity_may_not_depend_on_the_chunk():
    flat = dict.fromkeys(SIZES, 8.0)
    assert chunk_sizes_gate({**flat, 1: 8.7}).passed
    assert not chunk_sizes_gate({**flat, 1: 8.81}).passed
    missing = chunk_sizes_gate({**flat, 64: None})
    assert not missing.passed
    assert "the shard is no multiple of 64" in missing.text
    assert not chunk_sizes_gate({**flat, 2: float("nan")}).passed


DECODED = Decoded(24, 16, 1e-6, (24, 24), 1, 2.0, 2.1)


@pytest.mark.parametrize(
    "changed",
    [{"error": 0.01}, {"error": float("nan")}, {"ages": (8, 8)}, {"programs": 2}, {"tokens": 16, "ages": (16, 16)}],
)
def test_decoding_equals_the_whole_resets_nothing_and_compiles_once(changed):
    assert decoded_gate(DECODED).passed
    assert not decoded_gate(DECODED._replace(**changed)).passed


def test_lines_and_summary_say_what_failed():
    gates = [rollbacks_gate([], 9, 9), rollbacks_gate([], 8, 9)]
    assert gates[0].line().startswith("G4-1 passed  rollbacks: 0 in 9 of 9 steps (expected:")
    assert gates[1].line().startswith("G4-1 FAILED")
    assert summary(gates) == "1 of 2 gates passed; failed: G4-1"


def test_options_change_the_defaults_of_their_preset_alone():
    defaults = Defaults(config=("shard=128", "d_model=64"), length=256)
    usual = run_settings(Options(config=("d_model=32",)), defaults)
    assert usual.config == ("shard=128", "d_model=32")
    assert usual.length == 256
    other = run_settings(Options(preset="micro", steps=7), defaults)
    assert (other.config, other.length, other.steps) == ((), None, 7)
    chosen = run_settings(Options(chunks=(4,)), Defaults(config=("chunks=[16,64]", "shard=128")))
    assert (chosen.chunks, chosen.config) == ((4,), ("shard=128",))
    decided = with_chunks(run_settings(Options(), Defaults(config=("chunks=[16,64]", "shard=128"))), (8,))
    assert (decided.chunks, decided.config) == ((8,), ("shard=128",))
    assert in_two_stages(other, (16,), SIZES, 0.2).stage_two_chunks == SIZES
    assert in_two_stages(other, (1, 8, 16), SIZES, 0.2).stage_two_chunks == (1, 4, 8)


def test_a_probe_is_timed_without_what_compiling_took(tmp_path):
    calls = []
    timed = TimedProbe(
        lambda params: calls.append(params) or {"niah_accuracy": jnp.ones(())}, tmp_path / "probes.jsonl"
    )
    hook = timed.before(lambda event: timed(event.state) if event.index > 1 else None)
    for index in (1, 2, 3):
        hook(Event(index, index, {}))
    assert calls == [2, 2, 3], "the first is made twice"
    path = tmp_path / "probes.jsonl"
    text = path.read_text().splitlines()
    assert ['"step": 2' in text[0], '"step": 3' in text[1]] == [True, True]
    with path.open("a") as file:
        file.write('{"step": 4, "sec')  # a process that was killed
    hook(Event(5, 5, {}))
    assert [row["step"] for row in rows_of(path)] == [2, 3, 5]
