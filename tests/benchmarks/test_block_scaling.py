"""The lines of a tiny run, what it skips and resumes, the fits, and that PyTorch computes the same blocks."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from benchmarks import block_scaling, blocks
from benchmarks.block_scaling import Bench, Options, exponent, extrapolated
from benchmarks.blocks import Cost, Task


def read(path):
    return {figure["name"]: figure for figure in map(json.loads, path.read_text().splitlines())}


@pytest.fixture
def options(tmp_path):
    return Options(lengths=(16, 32, 64), width=16, peer=False, repeats=2, results=tmp_path / "lines.jsonl")


@pytest.fixture
def measured(monkeypatch):
    """Replaces the processes by a clock on which attention is quadratic and all else linear; what was asked for."""
    asked = []

    def cost(task, params, repeats):
        if not repeats:
            return Cost(0.0, 0, 100, 0)
        asked.append((task.block, task.of, task.length))
        seconds = task.length**2 / 64**2 if task.block == "transformer" else task.length / 64
        return Cost(seconds, repeats, 100 + 1000 * task.length, 900 * task.length)

    monkeypatch.setattr(block_scaling, "in_own_process", lambda function, *args: function(*args))
    monkeypatch.setattr(block_scaling, "MEASURE", {"jax": cost, "torch": cost})
    monkeypatch.setattr(block_scaling, "initial_parameters", lambda task: {"w": np.zeros((3, 5))})
    return asked


@pytest.mark.slow
def test_a_tiny_run_in_processes_of_their_own(tmp_path):
    """Time and memory of each block and pass at each length, a plot, and nothing a second time."""
    path = tmp_path / "new" / "lines.jsonl"
    options = Options(lengths=(128,), blocks=("resonance",), width=16, peer=False, repeats=1, results=path)
    block_scaling.main(options)
    found = read(path)
    for length in options.lengths:
        for of in ("forward", "step"):
            seconds = found[f"blocks.resonance.{of}.seconds.T={length}"]
            memory = found[f"blocks.resonance.{of}.memory.T={length}"]
            assert 0 < seconds["value"] < 10
            assert seconds["runs"] == 1
            assert memory["above_baseline_bytes"] == memory["peak_bytes"] - memory["baseline_bytes"]
            assert 30e6 < memory["baseline_bytes"] < memory["peak_bytes"] < 2e9
            assert 0 <= memory["value"] < memory["peak_bytes"]
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    lines = path.read_text()
    block_scaling.main(options)
    assert path.read_text() == lines


def test_figures_follow_from_the_measurements(options, measured):
    block_scaling.main(options)
    found = read(options.results)
    assert len(measured) == 3 * 2 * 3
    at = found["blocks.resonance.step.seconds.T=32"]
    assert (at["value"], at["ratio_to_attention"], at["peer"]) == (0.5, 0.5, None)
    assert (at["parameters"], at["width"], at["length"]) == (15, 16, 32)
    assert found["blocks.transformer.step.seconds.T=64"]["value"] == 1.0
    assert "ratio_to_attention" not in found["blocks.transformer.step.seconds.T=64"]
    memory = found["blocks.eigenstate.forward.memory.T=64"]
    assert (memory["value"], memory["peak_bytes"], memory["above_baseline_bytes"]) == (57_600, 64_100, 64_000)


def test_exponents_are_fitted_from_two_thousand_tokens_on(options, measured, monkeypatch):
    monkeypatch.setattr(block_scaling, "FIT_FROM", 32)
    block_scaling.main(options)
    found = read(options.results)
    assert found["blocks.transformer.step.seconds-exponent"]["value"] == pytest.approx(2)
    line = found["blocks.eigenstate.forward.seconds-exponent"]
    assert (line["value"], line["entire"]) == (pytest.approx(1), pytest.approx(1))
    assert line["lengths"] == [16, 32, 64]
    block_scaling.main(Options(**{**vars(options), "lengths": (16, 32, 64, 128)}))
    assert read(options.results)["blocks.eigenstate.forward.seconds-exponent"]["lengths"] == [16, 32, 64, 128]
    assert len(measured) == 4 * 2 * 3  # only the new length


def test_the_whole_forward_process_is_held_to_the_limit(options, measured, monkeypatch):
    for limit, within in ((70_000, True), (60_000, False)):
        monkeypatch.setattr(block_scaling, "DEMANDED", (64, limit))
        options.results.unlink(missing_ok=True)
        block_scaling.main(options)
        line = read(options.results)["blocks.resonance.forward.whole-process-memory.T=64"]
        assert (line["value"], line["limit_bytes"], line["within"]) == (64_100, limit, within)


def test_what_is_predicted_to_take_too_long_is_not_run(options, measured):
    """0.0625, 0.25 and then 1 s on the same parabola: the last is a prediction, not a measurement."""
    options = Options(**{**vars(options), "longest_seconds": 0.9, "blocks": ("transformer", "eigenstate")})
    block_scaling.main(options)
    assert ("transformer", "step", 64) not in measured
    found = read(options.results)
    skipped = found["blocks.transformer.step.predicted-seconds.T=64"]
    assert skipped["value"] == pytest.approx(1)
    assert (skipped["unit"], skipped["skipped"]) == ("s, extrapolated", "predicted 1 s, above 0.9")
    assert "blocks.transformer.step.seconds.T=64" not in found
    # Linear ones were predicted at 1 s too.
    assert found["blocks.eigenstate.step.predicted-seconds.T=64"]["value"] == pytest.approx(1)


def test_a_skipped_attention_gives_no_ratio_but_an_extrapolated_one(options, measured):
    options = Options(**{**vars(options), "lengths": (16, 32, 128), "longest_seconds": 3.0})
    block_scaling.main(options)
    line = read(options.results)["blocks.resonance.step.seconds.T=128"]
    assert line["ratio_to_attention"] is None
    assert line["extrapolated_ratio_to_attention"] == pytest.approx(2)


def test_what_is_predicted_not_to_fit_is_not_run(options, measured):
    bench = Bench(Options(**{**vars(options), "memory_share": 1e-9}))
    for length in (16, 32):
        bench.measure(Task("resonance", 16, length, "step"), "jax", {"w": np.zeros(2)})
    reason = bench.predicted_excess(Task("resonance", 16, 64, "step"), "jax")
    assert reason is not None
    assert reason.startswith("predicted 5.76e+04 bytes")


@pytest.mark.parametrize("length", [100, 4])
def test_lengths_that_the_chunks_do_not_divide_are_refused(options, length):
    with pytest.raises(ValueError, match=f"lengths has {length}, expected powers of two from 8"):
        block_scaling.main(Options(**{**vars(options), "lengths": (length,)}))


def test_fits():
    assert extrapolated([(1, 9.0), (2, 3.0), (4, 12.0)], 16) == pytest.approx(192)
    assert extrapolated([(4, 12.0)], 16) is None
    assert exponent([(1, 2.0), (2, 4.0), (4, 8.0)]) == pytest.approx(1)
    assert exponent([(1, 2.0)]) is None


def test_blocks_have_equal_parameters():
    params = [blocks.initial_parameters(Task(name, 64, 64, "step")) for name in block_scaling.BLOCKS]
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in params]
    assert max(sizes) / min(sizes) < 1.02


def test_a_step_is_the_forward_pass_with_its_gradients():
    """Of a sum of weighted outputs: the directional derivative is that of finite differences."""
    task = Task("eigenstate", 16, 32, "step")
    params = jax.tree.map(jax.numpy.asarray, blocks.initial_parameters(task))
    x, weights = (jax.numpy.asarray(part) for part in blocks.drawn_inputs(task, "float32"))
    y, (of_inputs, of_params) = jax.jit(blocks.jax_step(task))(params, x, weights)
    forward = jax.jit(blocks.jax_block(task))
    np.testing.assert_allclose(y, forward(params, x), rtol=1e-6)
    assert jax.tree.structure(of_params) == jax.tree.structure(params)
    moved = (forward(params, x + 1e-2 * weights) - forward(params, x - 1e-2 * weights)) / 2e-2
    np.testing.assert_allclose(np.sum(of_inputs * weights), np.sum(moved * weights), rtol=1e-3)


@pytest.mark.parametrize("name", block_scaling.BLOCKS)
@pytest.mark.parametrize("length", [64, 256])
def test_both_sides_compute_the_same(name, length):
    pytest.importorskip("torch", reason="needs torch, see benchmarks/README.md")
    task = Task(name, 32, length, "step")
    assert blocks.check_same_mathematics(task, blocks.initial_parameters(task)) < 1e-11


def test_another_mathematics_is_refused(monkeypatch):
    torch_blocks = pytest.importorskip("benchmarks.torch_blocks", reason="needs torch, see benchmarks/README.md")
    monkeypatch.setattr(torch_blocks, "EPSILON", 1e-5)
    task = Task("resonance", 32, 64, "step")
    with pytest.raises(ValueError, match=r"not the same mathematics, resonance: .*outputs"):
        blocks.check_same_mathematics(task, blocks.initial_parameters(task))


def test_memory_is_what_the_runs_add():
    """128 MB and then 8 MB, after a process has already held 300 MB."""
    held = bytearray(b"x") * 300_000_000
    del held
    found = [blocks._repeat(lambda size=size: bytearray(b"x") * size, 1) for size in (128_000_000, 8_000_000)]
    assert found[0].added == pytest.approx(128e6, rel=0.1)
    assert found[1].added < 16e6
    assert found[0].peak > 300e6
    assert found[0].runs == 1


def test_two_levels_of_states_are_the_recurrence():
    """More chunks than one matrix covers, and more than two levels of them."""
    torch_blocks = pytest.importorskip("benchmarks.torch_blocks", reason="needs torch, see benchmarks/README.md")
    rng = np.random.default_rng(0)
    for count in (31, 33, 1025, 1100):
        added = rng.normal(size=(2, 1, count, 3)) + 1j * rng.normal(size=(2, 1, count, 3))
        log_factor = np.array([[-0.5 + 1j], [-0.001 + 0.1j]])
        expected, state = [], 0
        for n in range(count):
            state = np.exp(log_factor)[..., None] * state + added[:, :, n]
            expected.append(state)
        found = torch_blocks.recurrence(torch_blocks.as_tensor(log_factor), torch_blocks.as_tensor(added))
        np.testing.assert_allclose(found.numpy(), np.stack(expected, axis=2), rtol=1e-9, atol=1e-9)
