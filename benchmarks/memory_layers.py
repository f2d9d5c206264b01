"""One memory layer, forward and backward: tokens a second and memory of ours beside titans-pytorch's, at the same sizes.

Titans with an MLP memory, projections, convolution and gates included on our side; the peer is `NeuralMemory` of
titans-pytorch with its gradients taken where each chunk starts, as the paper has it (`batch_size` = chunk), and its default
memory of two layers and expansion 4. Every measurement is a process of its own; the sides take turns, so that both meet the
same load.

XLA runs the small products of many heads one after the other on a CPU, so ours deals the sequences to as many host devices as
there are cores. The peer needs PyTorch and titans-pytorch; without them it is left out, and the figures have no ratio.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from atlas_jax.distributed.mesh import usable_cores
from benchmarks.quality.records import Records

Side = Literal["jax", "torch"]


@dataclass(frozen=True)
class Options:
    """Sizes and repetitions."""

    batch: int = 4
    """Sequences; a multiple of the cores used."""
    heads: int = 4
    width: int = 64
    """Channels of a head."""
    chunk: int = 64
    length: int = 1024
    """Tokens of a sequence."""
    repeats: int = 5
    """Runs of a process after two to warm up."""
    turns: int = 3
    """Processes a side."""
    results: Path = Path("benchmarks/results/memory_layers.jsonl")
    """Where figures are appended."""


class Cost(NamedTuple):
    """Of one process: median seconds of a run, and bytes that the runs added to what was resident before them."""

    seconds: float
    added: int
    parameters: int


def _resident() -> int:
    """Largest resident set so far, bytes (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _timed(run: Callable[[], Any], repeats: int) -> tuple[float, int]:
    """Median seconds after two runs, and bytes that all of them added."""
    before = _resident()
    seconds = []
    for _ in range(2 + repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:]), _resident() - before


def measure_jax(options: Options) -> Cost:
    """A step of our layer: value and gradients by parameters and inputs."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from atlas_jax.memory.dual import Descent
    from atlas_jax.memory.networks import MLP
    from atlas_jax.memory.sequence import MemoryConfig
    from atlas_jax.nn.memory import MemoryLayer

    jax.config.update("jax_num_cpu_devices", usable_cores())
    mesh = jax.make_mesh((usable_cores(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    layer = MemoryLayer(options.heads, (MemoryConfig(Descent(MLP), options.chunk),), expansion=4)
    shape = (options.batch, options.length, options.heads * options.width)
    inputs = jax.device_put(jax.random.normal(jax.random.key(1), shape), NamedSharding(mesh, PartitionSpec("data")))
    params = jax.jit(layer.init)(jax.random.key(0), inputs[:, :1])
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))

    def loss(params: Any, inputs: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(layer.apply(params, inputs)[0]))  # pyright: ignore[reportArgumentType]

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    seconds, added = _timed(lambda: jax.block_until_ready(step(params, inputs)), options.repeats)
    return Cost(seconds, added, sum(leaf.size for leaf in jax.tree.leaves(params)))


def measure_torch(options: Options) -> Cost:
    """The same of titans-pytorch's layer."""
    import torch  # pyright: ignore[reportMissingImports]
    from titans_pytorch import NeuralMemory  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    torch.set_num_threads(usable_cores())
    width = options.heads * options.width
    layer = NeuralMemory(
        dim=width,
        chunk_size=options.chunk,
        batch_size=options.chunk,
        heads=options.heads,
        dim_head=options.width,
        qk_rmsnorm=True,
    )
    inputs = torch.randn(options.batch, options.length, width, requires_grad=True)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        inputs.grad = None
        said, _ = layer(inputs)
        said.square().mean().backward()

    seconds, added = _timed(step, options.repeats)
    return Cost(seconds, added, sum(parameter.numel() for parameter in layer.parameters()))


MEASURE: dict[Side, Callable[[Options], Cost]] = {"torch": measure_torch, "jax": measure_jax}


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a fresh process: no memory, threads or compiled code of an earlier measurement."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def main(options: Options) -> None:
    """Measures both sides in turns and writes medians.

    Raises:
      ValueError: the sequences cannot be dealt evenly to the cores.
    """
    if options.batch % usable_cores():
        raise ValueError(f"batch is {options.batch}, expected a multiple of the {usable_cores()} cores")
    sides: list[Side] = ["jax"] if importlib.util.find_spec("titans_pytorch") is None else ["torch", "jax"]
    costs: dict[Side, list[Cost]] = {side: [] for side in sides}
    for _ in range(options.turns):
        for side in sides:
            costs[side].append(in_own_process(MEASURE[side], options))
    records = Records(options.results)
    tokens = options.batch * options.length
    about = {name: getattr(options, name) for name in ("batch", "heads", "width", "chunk", "length")}
    seconds = {side: statistics.median(cost.seconds for cost in costs[side]) for side in sides}
    added = {side: float(statistics.median(cost.added for cost in costs[side])) for side in sides}
    for side in sides:
        more = {**about, "parameters": costs[side][0].parameters, "threads": usable_cores(), "processes": options.turns}
        for what, unit, values in (("seconds", "s", seconds), ("memory", "bytes", added)):
            peer = values.get("torch") if side == "jax" else None
            rate = {"tokens_per_second": tokens / values[side]} if what == "seconds" else {}
            records.add(f"memory-layer.{side}.{what}", values[side], unit, peer, **rate, **more)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
