"""The blocks that `benchmarks.block_scaling` compares, and what one process measures of one of them.

The functions that need PyTorch import `benchmarks.torch_blocks` when they are called.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from atlas_jax.distributed.mesh import usable_cores
from atlas_jax.models import transformer
from atlas_jax.models.transformer import TransformerConfig
from atlas_jax.nn.norms import rms_norm
from spectral import eigenstate, resonance
from spectral.eigenstate import EigenstateConfig
from spectral.eigenstate_layers import EigenstateLayer
from spectral.resonance import ResonanceConfig

TOLERANCE = 1e-8  # relative, in the norm of each array
CHUNK = 64  # tokens per Toeplitz matrix of the convolutions, both sides
ATTENTION_CHUNK = 512  # queries per block of attention: its backward pass keeps a window a block
RUN_SECONDS = 10.0  # of repetitions; at least one run

BlockName = Literal["resonance", "eigenstate", "transformer"]
Pass = Literal["forward", "step"]
Side = Literal["jax", "torch"]


class Task(NamedTuple):
    """One block at one length, forward alone or a whole step."""

    block: BlockName
    width: int
    length: int
    of: Pass


class Cost(NamedTuple):
    """What one process found.

    Attributes:
      seconds: median of the runs after the first, or the first where it is the only one.
      runs: how many that were.
      peak: bytes, the process's largest resident set: imports, inputs, compiling (JAX) and all runs.
      added: bytes, by how much the runs alone took it above what was resident before them.
    """

    seconds: float
    runs: int
    peak: int
    added: int


def config_of(task: Task) -> ResonanceConfig | EigenstateConfig | TransformerConfig:
    """The block's sizes: about 7 d**2 parameters each, as in the models' micro presets."""
    d = task.width
    if task.block == "resonance":
        return ResonanceConfig(d_model=d, layers=1, heads=d // 16, modes=8, context=task.length, chunk=CHUNK)
    if task.block == "eigenstate":
        return EigenstateConfig(d_model=d, layers=1, context=task.length)
    # Half the sequence where it is short, so that the check goes through several blocks.
    chunk = ATTENTION_CHUNK if task.length >= ATTENTION_CHUNK else task.length // 2
    return TransformerConfig(d_model=d, layers=1, heads=2, feed_forward=d, context=task.length, chunk=chunk)


def _eigenstate_layer(config: EigenstateConfig) -> EigenstateLayer:
    inner = config.feed_forward * config.d_model
    longest = float(config.context)
    return EigenstateLayer(config.heads, config.modes, config.scales, longest, config.selective, inner)


def _transformer_layer(config: TransformerConfig, params: PyTree, x: jax.Array) -> jax.Array:
    """One layer of `transformer.features`, which holds it inside."""
    mixed, _ = transformer._attention(config, params, rms_norm(x, params["attention_norm"]), None)
    x = x + mixed
    return x + transformer._feed_forward(params, rms_norm(x, params["feed_forward_norm"]))


def jax_block(task: Task) -> Callable[[PyTree, jax.Array], jax.Array]:
    """Outputs [b, t, d] of parameters and inputs."""
    config = config_of(task)
    if isinstance(config, TransformerConfig):
        return partial(_transformer_layer, config)
    layer = resonance.layer_of(config) if isinstance(config, ResonanceConfig) else _eigenstate_layer(config)

    def block(params: PyTree, x: jax.Array) -> jax.Array:
        y, _ = layer.apply({"params": params}, x, None)  # pyright: ignore[reportGeneralTypeIssues] (nothing is mutable)
        return y

    return block


def jax_step(task: Task) -> Callable[[PyTree, jax.Array, jax.Array], tuple[jax.Array, PyTree]]:
    """Outputs, and gradients of sum(outputs * weights) with respect to inputs and parameters."""
    block = jax_block(task)

    def step(params: PyTree, x: jax.Array, weights: jax.Array) -> tuple[jax.Array, PyTree]:
        y, pull = jax.vjp(lambda x, params: block(params, x), x, params)
        return y, pull(weights)

    return step


def initial_parameters(task: Task) -> PyTree:
    """The parameters of the first layer of a fresh model, as NumPy arrays."""
    model = {"resonance": resonance, "eigenstate": eigenstate, "transformer": transformer}[task.block]
    params = jax.jit(lambda: model.init(config_of(task), jax.random.key(0))["blocks"])()
    return jax.tree.map(lambda leaf: np.asarray(leaf[0]), params)


def torch_block(task: Task, dtype: str) -> Any:
    """The same block in PyTorch."""
    from benchmarks import torch_blocks

    config = config_of(task)
    if isinstance(config, TransformerConfig):
        return torch_blocks.transformer(config, dtype)
    if isinstance(config, EigenstateConfig):
        return torch_blocks.eigenstate(config, CHUNK)
    return torch_blocks.resonance(config)


def drawn_inputs(task: Task, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and weights of the outputs: [1, t, d] each."""
    drawn = np.random.default_rng(0).normal(size=(2, 1, task.length, task.width)).astype(dtype)
    return drawn[0], drawn[1]


@jax.enable_x64(True)
@jax.numpy_dtype_promotion("standard")
def check_same_mathematics(task: Task, params: PyTree) -> float:
    """Compares outputs and all gradients of both sides in float64.

    Args:
      task: block and length.
      params: from `initial_parameters`.

    Returns:
      The relative difference in the norm of the worst array.

    Raises:
      ValueError: it is above TOLERANCE.
    """
    from benchmarks import torch_blocks

    # Norm scales of one would hide that a side leaves them out.
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf * rng.uniform(0.8, 1.2, leaf.shape), params)
    x, weights = drawn_inputs(task, "float64")
    y, (of_inputs, of_params) = jax.jit(jax_step(task))(params, x, weights)
    ours = [y, of_inputs, *jax.tree.leaves(of_params)]
    theirs, gradients = torch_blocks.step(
        torch_block(task, "float64"),
        torch_blocks.tensors(params),
        torch_blocks.as_tensor(x),
        torch_blocks.as_tensor(weights),
    )
    names = ["outputs", "inputs", *(jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(of_params))]
    differences = {
        name: float(np.linalg.norm(a - b.numpy()) / np.linalg.norm(a))
        for name, a, b in zip(names, ours, [theirs, *gradients], strict=True)
    }
    above = {name: f"{value:.1e}" for name, value in differences.items() if not value <= TOLERANCE}
    if above:
        raise ValueError(f"not the same mathematics, {task.block}: {above}, expected <= {TOLERANCE}")
    return max(differences.values())


def resident(field: str) -> int:
    """Bytes of the resident set of this process: "VmRSS" now, "VmHWM" at most. `ru_maxrss` would start from the parent's."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "Linux says so for every process"
    return int(found[1]) * 1024


def _repeat(run: Callable[[], object], repeats: int) -> Cost:
    peak, before, seconds = resident("VmHWM"), resident("VmRSS"), []
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident set counts from here
    while len(seconds) <= repeats and (len(seconds) < 1 or sum(seconds) + seconds[-1] < RUN_SECONDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    highest = resident("VmHWM")
    warm = seconds[1:] or seconds
    return Cost(float(np.median(warm)), len(warm), max(peak, highest), max(0, highest - before))


def _only_inputs() -> Cost:
    return Cost(0.0, 0, resident("VmHWM"), 0)


def measure_jax(task: Task, params: PyTree, repeats: int) -> Cost:
    """Ours; compiling is not timed. No repeats: a process that has only its inputs."""
    x, weights = (jnp.asarray(part) for part in drawn_inputs(task, "float32"))
    params = jax.tree.map(jnp.asarray, params)
    if not repeats:
        return _only_inputs()
    arguments = (params, x) if task.of == "forward" else (params, x, weights)
    function = jax_block(task) if task.of == "forward" else jax_step(task)
    compiled = jax.jit(function).lower(*arguments).compile()
    return _repeat(lambda: jax.block_until_ready(compiled(*arguments)), repeats)


def measure_torch(task: Task, params: PyTree, repeats: int) -> Cost:
    """Theirs, on as many cores. No repeats: a process that has only its inputs."""
    from benchmarks import torch_blocks

    torch_blocks.use_threads(usable_cores())
    x, weights = (torch_blocks.as_tensor(part) for part in drawn_inputs(task, "float32"))
    tensors = torch_blocks.tensors(params)
    if not repeats:
        return _only_inputs()
    block = torch_block(task, "float32")
    if task.of == "forward":
        return _repeat(lambda: torch_blocks.forward(block, tensors, x), repeats)
    return _repeat(lambda: torch_blocks.step(block, tensors, x, weights), repeats)


MEASURE: dict[Side, Callable[[Task, PyTree, int], Cost]] = {"jax": measure_jax, "torch": measure_torch}
