"""A memory layer and a model of four, forward and backward: tokens a second and memory of ours beside titans-pytorch's.

`layer` is Titans with an MLP memory, projections, convolution and gates included on our side; the peer is `NeuralMemory` of
titans-pytorch with its gradients taken where each chunk starts, as the paper has it (`batch_size` = chunk), and its default
memory of two layers and expansion 4. `context` is memory as context (MAC): four blocks of attention, memory and feed-forward on
bytes, with a loss; the peer is its `MemoryAsContextTransformer` of the same sizes, a memory in every block too, or, as
`context-half`, in every second one of the peer only. Every measurement is a process of its own; the sides take turns, so that
both meet the same load. Under glibc both have large pages (`GLIBC_TUNABLES`, if it is not set already): with small ones a large
part of a step goes into asking the system for memory.

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
What = Literal["layer", "context", "context-half"]
LARGE_PAGES = "glibc.malloc.hugetlb=1"
BLOCKS, FEED_FORWARD, PERSISTENT, CONTEXT_EXPANSION = 4, 682, 4, 2  # of the peer's model; its feed-forward is 8/3 wide


@dataclass(frozen=True)
class Options:
    """Sizes and repetitions."""

    what: What = "layer"
    """What is measured."""
    batch: int = 4
    """Sequences; a multiple of the cores used."""
    heads: int = 4
    width: int = 64
    """Channels of a head."""
    chunk: int = 64
    tile: int = 64
    """Of our layer, see `atlas_jax.memory.sequence`: that of a whole chunk multiplies all its tokens with one another at once."""
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
    """A step of ours: value and gradients by parameters, and by the inputs where they are no tokens."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    jax.config.update("jax_num_cpu_devices", usable_cores())
    mesh = jax.make_mesh((usable_cores(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params, inputs, step = _jax_layer(options) if options.what == "layer" else _jax_context(options)
    inputs = jax.device_put(inputs, NamedSharding(mesh, PartitionSpec("data")))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    step = jax.jit(step)
    seconds, added = _timed(lambda: jax.block_until_ready(step(params, inputs)), options.repeats)
    return Cost(seconds, added, sum(leaf.size for leaf in jax.tree.leaves(params)))


def _jax_layer(options: Options) -> tuple[Any, Any, Callable[[Any, Any], Any]]:
    """Parameters, inputs and step of our layer."""
    import jax
    import jax.numpy as jnp

    from atlas_jax.memory.dual import Descent
    from atlas_jax.memory.networks import MLP
    from atlas_jax.memory.sequence import MemoryConfig
    from atlas_jax.nn.memory import MemoryLayer

    layer = MemoryLayer(options.heads, (MemoryConfig(Descent(MLP), options.chunk, tile=options.tile),), expansion=4)
    inputs = jax.random.normal(jax.random.key(1), (options.batch, options.length, options.heads * options.width))
    params = jax.jit(layer.init)(jax.random.key(0), inputs[:, :1])

    def loss(params: Any, inputs: Any) -> Any:
        return jnp.mean(jnp.square(layer.apply(params, inputs)[0]))  # pyright: ignore[reportArgumentType]

    return params, inputs, jax.value_and_grad(loss, argnums=(0, 1))


def _jax_context(options: Options) -> tuple[Any, Any, Callable[[Any, Any], Any]]:
    """Parameters, tokens and step of our model."""
    import jax
    import jax.numpy as jnp

    from atlas_jax.models import atlas

    config = atlas.AtlasConfig(
        vocab_size=256,
        d_model=options.heads * options.width,
        layers=BLOCKS,
        heads=options.heads,
        feed_forward=FEED_FORWARD,
        context=options.length,
        block="context",
        persistent=PERSISTENT,
        chunks=(options.chunk,),
        expansion=CONTEXT_EXPANSION,
    )
    params = jax.jit(lambda key: atlas.init(config, key))(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (options.batch, options.length + 1), 0, config.vocab_size)

    def loss(params: Any, tokens: Any) -> Any:
        logits, _ = atlas.apply(config, params, tokens[:, :-1])
        picked = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - picked)

    return params, tokens, jax.value_and_grad(loss)


def measure_torch(options: Options) -> Cost:
    """The same of titans-pytorch's."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    torch.set_num_threads(usable_cores())
    model, inputs, loss = _torch_layer(options) if options.what == "layer" else _torch_context(options)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        inputs.grad = None
        loss().backward()

    seconds, added = _timed(step, options.repeats)
    return Cost(seconds, added, sum(parameter.numel() for parameter in model.parameters()))


def _torch_layer(options: Options) -> tuple[Any, Any, Callable[[], Any]]:
    """Module, inputs and loss of the peer's layer."""
    import torch  # pyright: ignore[reportMissingImports]
    from titans_pytorch import NeuralMemory  # pyright: ignore[reportMissingImports]

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
    return layer, inputs, lambda: layer(inputs)[0].square().mean()


def _torch_context(options: Options) -> tuple[Any, Any, Callable[[], Any]]:
    """Module, tokens and loss of the peer's model."""
    import torch  # pyright: ignore[reportMissingImports]
    from titans_pytorch import MemoryAsContextTransformer, MemoryMLP  # pyright: ignore[reportMissingImports]

    every = 1 if options.what == "context" else 2
    model = MemoryAsContextTransformer(
        num_tokens=256,
        dim=options.heads * options.width,
        depth=BLOCKS,
        heads=options.heads,
        dim_head=options.width,
        segment_len=options.chunk,
        num_persist_mem_tokens=PERSISTENT,
        num_longterm_mem_tokens=4,
        neural_memory_layers=tuple(range(every, BLOCKS + 1, every)),
        neural_memory_segment_len=options.chunk,
        neural_memory_batch_size=options.chunk,
        sliding_window_attn=True,
        use_flex_attn=False,
        neural_memory_model=MemoryMLP(dim=options.width, depth=2, expansion_factor=CONTEXT_EXPANSION),
        neural_memory_kwargs={"dim_head": options.width, "heads": options.heads, "qk_rmsnorm": True, "momentum": True},
    )
    tokens = torch.randint(0, 256, (options.batch, options.length + 1))
    return model, tokens, lambda: model(tokens, return_loss=True)


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
    os.environ.setdefault("GLIBC_TUNABLES", LARGE_PAGES)  # read where a process begins, so by those of the measurements
    sides: list[Side] = ["jax"] if importlib.util.find_spec("titans_pytorch") is None else ["torch", "jax"]
    costs: dict[Side, list[Cost]] = {side: [] for side in sides}
    for _ in range(options.turns):
        for side in sides:
            costs[side].append(in_own_process(MEASURE[side], options))
    records = Records(options.results)
    tokens = options.batch * options.length
    about = {name: getattr(options, name) for name in ("what", "batch", "heads", "width", "chunk", "tile", "length")}
    about["malloc"] = os.environ["GLIBC_TUNABLES"]
    seconds = {side: statistics.median(cost.seconds for cost in costs[side]) for side in sides}
    added = {side: float(statistics.median(cost.added for cost in costs[side])) for side in sides}
    for side in sides:
        more = {**about, "parameters": costs[side][0].parameters, "threads": usable_cores(), "processes": options.turns}
        for what, unit, values in (("seconds", "s", seconds), ("memory", "bytes", added)):
            peer = values.get("torch") if side == "jax" else None
            rate = {"tokens_per_second": tokens / values[side]} if what == "seconds" else {}
            records.add(f"memory-{options.what}.{side}.{what}", values[side], unit, peer, **rate, **more)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
