"""Memory of a large preset's training step on four devices, and the largest batch that fits them.

    python -m benchmarks.memory_estimate

One JSON line a figure. What it is: XLA compiles the whole sharded step (data, tensor, sequence; AdamW; the algorithm that
GPUs take) for four host devices, without running it, and says what its buffers need. Parameters, moments and gradients follow
from the layout; the rest, called activations here, is linear in the tokens of a device once they outweigh a block of
logits, so that two compilations give the line for every batch and length; a sequence slice costs what as many tokens
of other sequences do. What it is not: a measurement on a GPU. XLA's CPU compiler keeps float32 copies of bfloat16 operands of
matmuls, which tensor cores do not need, so that the activations are an upper bound (what is kept of every layer, its input, is
the lower one and stands beside it); libraries' work space, NCCL's buffers and fragmentation come on top and are what the last
tenth of the memory is left for.

Checks: the line against compilations elsewhere on it, and the compiler's figure against the peak memory of a process that runs
a small step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from atlas_jax.distributed.mesh import DATA, SEQUENCE, TENSOR, model_mesh, use_host_devices
from atlas_jax.distributed.step import make_sharded_step, train_state_shardings
from atlas_jax.training import TrainState, adamw, init_state, make_step
from benchmarks.figures import line
from spectral import resonance
from spectral.convolution import choice
from spectral.resonance import PRESETS, ResonanceConfig

DEVICES = 4
GB = 1e9
Shape = tuple[int, int, int]  # data, tensor, sequence
MESHES: tuple[Shape, ...] = ((4, 1, 1), (1, 1, 4), (2, 1, 2), (2, 2, 1), (1, 2, 2), (1, 4, 1))
LENGTH = 2_048  # of the sequences that the line is drawn with
POINTS = (65_536, 131_072)  # tokens a device


@dataclass(frozen=True)
class Options:
    """Estimates the memory of training steps on four devices."""

    presets: tuple[str, ...] = ("tiny", "small", "base")
    """Of the Resonance model."""
    lengths: tuple[int, ...] = (2_048, 16_384, 131_072)
    """Tokens a sequence; those beyond a preset's context are left out, as are meshes that do not divide its heads."""
    memory: float = 141.0
    """GB of a device."""
    share: float = 0.9
    """Of it that may be used."""
    checks: bool = True
    """Whether to compare the line with other compilations and with a process."""


class Memory(NamedTuple):
    """Bytes a device."""

    arguments: int  # state and batch; the new state takes the old one's place
    temporary: int  # gradients and activations


def step_of(config: ResonanceConfig) -> Any:
    """The training step that is estimated."""

    def loss(params: Any, windows: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        del key
        return jnp.mean(resonance.token_losses(config, params, windows[:, :-1], windows[:, 1:])[0]), {}

    return make_step(loss, adamw())


def state_of(config: ResonanceConfig, key: jax.Array) -> TrainState:
    """The first state of a run."""
    return init_state(resonance.init(config, key), adamw(), key)


@cache
def compiled(config: ResonanceConfig, shape: Shape, batch: int, length: int) -> Memory:
    """What the compiler says that one step needs."""
    state = jax.eval_shape(partial(state_of, config), jax.random.key(0))
    step = make_sharded_step(step_of(config), state, resonance.parameter_axes(config), model_mesh(*shape))
    windows, rate = jax.ShapeDtypeStruct((batch, length + 1), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
    # Buffers are assigned before machine code is made, which may then be as slow as it likes.
    quick = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}
    found = step.lower(state, windows, rate).compile(compiler_options=quick).memory_analysis()
    return Memory(found.argument_size_in_bytes, found.temp_size_in_bytes)


def state_bytes(config: ResonanceConfig, shape: Shape) -> dict[str, float]:
    """GB a device of parameters, moments and gradients, as they are laid out."""
    mesh = model_mesh(*shape)
    state = jax.eval_shape(partial(state_of, config), jax.random.key(0))
    shardings = train_state_shardings(state, resonance.parameter_axes(config), mesh)

    def gigabytes(arrays: Any, laid_out: Any) -> float:
        pairs = zip(jax.tree.leaves(arrays), jax.tree.leaves(laid_out), strict=True)
        return sum(np.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in pairs) / GB

    parameters = gigabytes(state.params, shardings.params)
    return {
        "parameters": parameters,
        "moments": gigabytes(state.opt_state, shardings.opt_state),
        "gradients": parameters,
    }


class Line(NamedTuple):
    """Bytes a device = fixed + per_token x tokens of the device; the compiler's, gradients among the fixed ones."""

    fixed: float
    per_token: float

    def at(self, tokens: float) -> float:
        return self.fixed + self.per_token * tokens


def fitted(config: ResonanceConfig, tensor: int) -> Line:
    """Through two compilations in which the other devices split the batch."""
    data = DEVICES // tensor
    low, high = (compiled(config, (data, tensor, 1), data * tokens // LENGTH, LENGTH) for tokens in POINTS)
    per_token = (high.temporary - low.temporary) / (POINTS[1] - POINTS[0])
    return Line(sum(low) - per_token * POINTS[0], per_token)


def largest_batch(fit: Line, shape: Shape, length: int, limit: float) -> int:
    """Sequences, a multiple of the mesh's data axis; 0 where not even one a device fits."""
    data, _, sequence = shape
    return data * max(0, int((limit - fit.fixed) / (fit.per_token * length / sequence)))


def name_of(shape: Shape) -> str:
    """For example data4, or tensor2.sequence2."""
    return ".".join(f"{axis}{size}" for axis, size in zip((DATA, TENSOR, SEQUENCE), shape, strict=True) if size > 1)


def estimates(options: Options, preset: str) -> Iterator[str]:
    """Figures of one preset: fixed memory by mesh, largest batch by mesh and length."""
    config, limit = PRESETS[preset], options.share * options.memory * GB
    for shape in (shape for shape in MESHES if config.heads % shape[1] == 0):
        fixed, fit = state_bytes(config, shape), fitted(config, shape[1])
        yield line(f"memory.{preset}.{name_of(shape)}.state", sum(fixed.values()), "GB/device", **fixed)
        for length in (length for length in options.lengths if length <= config.context):
            batch = largest_batch(fit, shape, length, limit)
            tokens = batch * length / (shape[0] * shape[2])
            yield line(
                f"memory.{preset}.{name_of(shape)}.T{length}.largest_batch",
                float(batch),
                "sequences",
                activations_gb=fit.at(tokens) / GB - sum(fixed.values()),
                total_gb=fit.at(tokens) / GB,
                activation_bytes_per_token=fit.per_token,
                layer_input_bytes_per_token=float(config.layers * config.d_model * jnp.dtype(config.dtype).itemsize),
                tokens_per_device=tokens,
            )


def checks(options: Options) -> Iterator[str]:
    """The line against compilations elsewhere on it: full contexts, mixed meshes, the largest batch itself."""
    limit = options.share * options.memory * GB
    for preset in options.presets:
        config = PRESETS[preset]
        length = min(config.context, max(options.lengths))
        for shape, full in (((1, 1, 4), True), ((1, 2, 2), False)):
            fit = fitted(config, shape[1])
            batch = largest_batch(fit, shape, length, limit) if full else DEVICES
            estimate = fit.at(batch * length / (shape[0] * shape[2])) / GB
            direct = sum(compiled(config, shape, batch, length)) / GB
            name = f"memory.check.{preset}.{name_of(shape)}.T{length}.batch{batch}"
            yield line(name, estimate, "GB/device", direct, direct / estimate)


def recomputation(preset: str) -> str:
    """Gradients and activations with each layer computed again, beside those of the same step without."""
    config = PRESETS[preset]
    case = ((DEVICES, 1, 1), DEVICES * 8, LENGTH)
    ours, kept = (compiled(replace(config, recompute=again), *case).temporary / GB for again in (True, False))
    return line(f"memory.{preset}.recompute.16384_tokens_per_device", ours, "GB/device", kept, kept / ours)


def peak_memory() -> int:
    """Largest resident set of this process so far, bytes."""
    status = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def measured_run() -> str:
    """A small step on one device, run: what the process grew by beside what the compiler said."""
    config = ResonanceConfig(4096, 128, 6, 4, 8, feed_forward=4, context=16_384, tied=True, recompute=True)
    mesh, batch = model_mesh(devices=jax.devices()[:1]), jnp.ones((1, 16_385), jnp.int32)
    before = peak_memory()
    state = jax.jit(partial(state_of, config))(jax.random.key(0))
    step = make_sharded_step(step_of(config), state, resonance.parameter_axes(config), mesh)
    program = step.lower(state, batch, jnp.float32(0.1)).compile()
    compiling = peak_memory()
    jax.block_until_ready(program(state, batch, jnp.float32(0.1)))
    said = program.memory_analysis()
    estimate = (said.temp_size_in_bytes + said.argument_size_in_bytes) / GB
    grown = (peak_memory() - compiling) / GB
    more = {"tokens": 16_384, "growth_while_compiling": (compiling - before) / GB}
    return line("memory.check.run.compiler_against_process", estimate, "GB", grown, grown / estimate, **more)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    use_host_devices(DEVICES)
    if options.checks:
        print(measured_run(), flush=True)  # first, in a process that has not grown yet
    choice.platform = lambda: "gpu"  # what is compiled here is the program for GPUs
    for preset in options.presets:
        print(recomputation(preset), flush=True)
        for figure in estimates(options, preset):
            print(figure, flush=True)
    if options.checks:
        for figure in checks(options):
            print(figure, flush=True)


if __name__ == "__main__":
    main()
