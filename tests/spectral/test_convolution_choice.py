"""Which algorithm is taken where none is named, and the errors that say what was wrong with an argument."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import convolution_table
from spectral.convolution import Modes, causal_convolution, choice, filter_convolution, hierarchical_fft
from spectral.convolution.causal import ALGORITHMS
from spectral.convolution.filters import ALGORITHMS as FILTER_ALGORITHMS


def modes(heads=2, count=3, dtype=jnp.float32):
    return Modes(*(jnp.full((heads, count), part, dtype) for part in (-1.0, 0.5, 1.0, 0.2)))


@pytest.mark.parametrize(("table", "known"), [(choice.MODAL, ALGORITHMS), (choice.FILTER, FILTER_ALGORITHMS)])
def test_every_length_has_one_known_choice(table, known):
    assert set(table) == {(backend, dtype) for backend in ("cpu", "gpu") for dtype in ("float32", "bfloat16")}
    for rows in table.values():
        lengths = [row.longest for row in rows]
        assert lengths == sorted(set(lengths))
        assert lengths[-1] == choice.ANY
        assert {row.algorithm for row in rows} <= set(known)


def test_short_sequences_are_one_block_and_long_ones_are_not():
    for dtype in ("float32", "float64", "bfloat16"):
        assert choice.modal(1, dtype, None).algorithm == choice.filters(1, dtype).algorithm == "toeplitz"
        assert choice.modal(131_072, dtype, None).algorithm != "toeplitz"
        assert choice.filters(131_072, dtype).algorithm != "toeplitz"


@pytest.mark.parametrize("chunk", [8, 128, 1_000])
def test_a_given_chunk_is_the_longest_block(chunk):
    assert choice.modal(chunk, "float32", chunk).algorithm == "toeplitz"
    longer = choice.modal(chunk + 1, "float32", chunk)
    assert longer.algorithm != "toeplitz"
    assert longer.chunk == chunk


@pytest.mark.parametrize(("backend", "row"), [("cpu", "cpu"), ("gpu", "gpu"), ("tpu", "gpu")])
def test_the_backend_decides(monkeypatch, backend, row):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert choice.modal(131_072, "float32", None) == choice.MODAL[row, "float32"][-1]
    assert choice.modal(131_072, "bfloat16", None) == choice.MODAL[row, "bfloat16"][-1]


@pytest.mark.parametrize("length", [16, 300])
def test_no_name_is_the_algorithm_of_the_table(length):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, length, 2, 3)), jnp.float32)
    algorithm, _, chunk = choice.modal(length, "float32", None)
    chosen = jax.jit(causal_convolution)(x, modes())
    named = jax.jit(lambda x, modes: causal_convolution(x, modes, algorithm=algorithm, chunk=chunk or None))(x, modes())
    for ours, expected in zip(chosen, named, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_the_benchmark_prints_every_algorithm(capsys):
    convolution_table.main(
        convolution_table.Options(lengths=(8,), tokens=8, width=4, heads=2, modes=2, chunks=(4,), seconds=0.0)
    )
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = {figure["name"].removeprefix("convolution.cpu.float32.").removesuffix(".T=8") for figure in figures}
    modal = {"toeplitz", "fft", "scan", "chunked-4", "parallel-4"}
    assert names == {f"modal.{name}" for name in modal} | {f"filter.{name}" for name in FILTER_ALGORITHMS}
    assert all(figure["value"] > 0 and figure["temporary_bytes"] > 0 for figure in figures)


X = jnp.zeros((2, 5, 2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"algorithm": "winograd"},
            "algorithm is 'winograd', expected None or one of toeplitz, fft, chunked, parallel, scan",
        ),
        ({"chunk": 0}, "chunk is 0, expected at least 1 token"),
        ({"modes": modes(heads=3)}, r"modes.log_rate has shape \(3, 3\), expected \[h = 2, m\].*\(2, 5, 2, 3\)"),
        (
            {"modes": modes()._replace(imaginary=jnp.ones((2, 4)))},
            r"modes.imaginary has shape \(2, 4\), expected \[h = 2",
        ),
        ({"modes": modes(dtype=jnp.bfloat16)}, "modes.log_rate is bfloat16, expected float32 beside x of float32"),
        ({"state": jnp.zeros((3, 2, 6, 3))}, r"state is float32 \(3, 2, 6, 3\), expected float32 \(2, 2, 6, 3\)"),
        ({"state": jnp.zeros((2, 2, 8, 3))}, r"state is float32 \(2, 2, 8, 3\), expected float32 \(2, 2, 6, 3\)"),
        ({"state": jnp.zeros((2, 2, 6, 3), jnp.bfloat16)}, r"state is bfloat16 .*, expected float32 \(2, 2, 6, 3\)"),
        ({"x": X.astype(jnp.int32)}, "x is int32, expected one of float32, float64, bfloat16, float16"),
        ({"x": X.astype(jnp.complex64)}, "x is complex64, expected one of"),
        ({"x": X[:, :0]}, "x has 0 tokens, expected at least 1"),
    ],
)
def test_a_modal_convolution_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        causal_convolution(**({"x": X, "modes": modes()} | arguments))


@pytest.mark.parametrize("function", [filter_convolution, hierarchical_fft])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"taps": jnp.ones((3, 5))}, r"taps has shape \(3, 5\), expected \[h = 2, at least 1\].*\(2, 5, 2, 3\)"),
        ({"taps": jnp.ones((2, 0))}, r"taps has shape \(2, 0\), expected \[h = 2, at least 1\]"),
        ({"taps": jnp.ones((2, 5, 1))}, r"taps has shape \(2, 5, 1\), expected \[h = 2, at least 1\]"),
        ({"taps": jnp.ones((2, 5), jnp.bfloat16)}, "taps is bfloat16, expected float32 beside x of float32"),
        ({"x": X.astype(jnp.int8)}, "x is int8, expected one of"),
        ({"x": X[:, :0]}, "x has 0 tokens, expected at least 1"),
    ],
)
def test_a_filter_says_what_is_wrong(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(**({"x": X, "taps": jnp.ones((2, 5))} | arguments))


def test_filters_name_their_algorithms_and_blocks():
    with pytest.raises(ValueError, match="algorithm is 'scan', expected None or one of toeplitz, fft, overlap_save"):
        filter_convolution(X, jnp.ones((2, 5)), algorithm="scan")
    with pytest.raises(ValueError, match="block is -1, expected at least 1 token"):
        hierarchical_fft(X, jnp.ones((2, 5)), block=-1)
