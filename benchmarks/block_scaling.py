"""Training step and forward pass of one block by sequence length: time, memory, and how they grow.

    python -m benchmarks.block_scaling

A Resonance block, an Eigenstate block and a transformer block of equal width and parameters on one sequence, ours in JAX and
the same functions in PyTorch eager (`benchmarks.torch_blocks`; `--no-peer` where PyTorch is absent). A step is forward and
backward: gradients of the parameters and of the inputs. Memory is what the runs add to the resident set; beside it stand
the whole process's peak (with compiling, for JAX) and that of a process that only made the inputs.

Before anything is timed, outputs and gradients of both sides are compared in float64. Every measurement is a process of its
own. What is predicted to take too long or too much memory from the two lengths before it is not run, and its line says so.
Interrupted, it goes on from the lines in `--results`. CPUs and Linux only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jaxtyping import PyTree

from benchmarks.blocks import MEASURE, BlockName, Pass, Side, Task, check_same_mathematics, initial_parameters
from benchmarks.quality.records import Records

BLOCKS: tuple[BlockName, ...] = (
    "transformer",
    "resonance",
    "eigenstate",
)  # attention first: the others are compared with it
PASSES: tuple[Pass, ...] = ("forward", "step")
CHECKED_LENGTH = 256
FIT_FROM = 2_048  # tokens; below, a step's fixed costs show
DEMANDED = (131_072, 2 * 2**30)  # tokens whose forward pass must fit into so many bytes


@dataclass(frozen=True)
class Options:
    """Times one block by sequence length; prints figures and appends them to a file."""

    lengths: tuple[int, ...] = (512, 2_048, 8_192, 32_768, 131_072)
    """Tokens of the one sequence; powers of two from 8 on."""
    blocks: tuple[BlockName, ...] = BLOCKS
    """What to time."""
    width: int = 64
    """Channels, a multiple of 16."""
    peer: bool = True
    """Whether PyTorch is timed as well."""
    repeats: int = 7
    """Runs of a figure after a warm one; fewer where all together would take more than ten seconds."""
    longest_seconds: float = 120.0
    """A run predicted to take longer is skipped."""
    memory_share: float = 0.8
    """Of the machine's memory; a run predicted to need more is skipped."""
    results: Path = Path("benchmarks/results/block_scaling.jsonl")
    """Lines are appended here, and those here already are not measured again; a plot goes beside it, as PNG."""


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a fresh process: no memory, threads or compiled code of an earlier measurement."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def extrapolated(points: Sequence[tuple[int, float]], length: int) -> float | None:
    """The value at `length` on the power law through the last two points (length, value); None of fewer."""
    if len(points) < 2:
        return None
    (first, low), (second, high) = points[-2:]
    return high * (length / second) ** (math.log(high / low) / math.log(second / first))


def exponent(points: Sequence[tuple[int, float]]) -> float | None:
    """Slope of log value on log length by least squares; None of fewer than two points."""
    if len(points) < 2:
        return None
    lengths, values = np.log(np.array(points)).T
    return float(np.polyfit(lengths, values, 1)[0])


class Bench:
    """The lines of a results file: what is there, what is missing, and what follows from them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.records = Records(options.results)
        self.sides: list[Side] = ["torch", "jax"] if options.peer else ["jax"]
        self.baselines: dict[tuple[int, Side], int] = {}

    def add(self, name: str, value: float, unit: str, peer: float | None = None, **more: Any) -> None:
        """A line, unless it is there."""
        if self.find(name) is None:
            self.records.add(name, value, unit, peer, width=self.options.width, **more)

    def find(self, name: str) -> dict[str, Any] | None:
        """The line of this name at this width."""
        return self.records.find(name=name, width=self.options.width)

    def value(self, task: Task, side: Side, what: str) -> float | None:
        """A measured figure; None where there is none."""
        figure = self.find(figure_name(task, side, what))
        return None if figure is None else figure["value"]

    def points(self, task: Task, side: Side, what: str) -> list[tuple[int, float]]:
        """The figures of a block at all shorter lengths and this one, as far as they were measured, by length."""
        lengths = sorted(length for length in self.options.lengths if length <= task.length)
        values = ((length, self.value(task._replace(length=length), side, what)) for length in lengths)
        return [(length, value) for length, value in values if value is not None and value > 0]

    def baseline(self, task: Task, side: Side, params: PyTree) -> int:
        """Bytes of a process of this side that made the inputs and did nothing with them."""
        key = task.length, side
        if key not in self.baselines:
            self.baselines[key] = in_own_process(MEASURE[side], task, params, 0).peak
        return self.baselines[key]

    def missing(self, task: Task) -> Iterator[tuple[Task, Side]]:
        """What is still to be measured of a block at a length; the prediction of a skipped run is made again."""
        for of in PASSES:
            for side in self.sides:
                if self.value(task._replace(of=of), side, "seconds") is None:
                    yield task._replace(of=of), side

    def predicted_excess(self, task: Task, side: Side) -> str | None:
        """Why a run is not made, with a line that says so; None where nothing speaks against it."""
        installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limits = (
            ("seconds", "s", self.options.longest_seconds),
            ("memory", "bytes", self.options.memory_share * installed),
        )
        for what, unit, limit in limits:
            value = extrapolated(self.points(task, side, what), task.length)
            if value is not None and value > limit:
                reason = f"predicted {value:.3g} {unit}, above {limit:.3g}"
                self.add(figure_name(task, side, f"predicted-{what}"), value, f"{unit}, extrapolated", skipped=reason)
                return reason
        return None

    def measure(self, task: Task, side: Side, params: PyTree) -> None:
        """Lines of memory and time of one process, unless it would take too much."""
        if self.predicted_excess(task, side):
            return
        cost = in_own_process(MEASURE[side], task, params, self.options.repeats)
        baseline = self.baseline(task, side, params)
        about = {"length": task.length, "batch": 1, "parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}
        ours = side == "jax"
        self.add(
            figure_name(task, side, "memory"),
            cost.added,
            "bytes",
            self.value(task, "torch", "memory") if ours and cost.added else None,
            peak_bytes=cost.peak,
            baseline_bytes=baseline,
            above_baseline_bytes=cost.peak - baseline,
            **about,
        )
        peer = self.value(task, "torch", "seconds") if ours else None
        beside = self.beside_attention(task, cost.seconds) if ours and task.block != "transformer" else {}
        self.add(figure_name(task, side, "seconds"), cost.seconds, "s", peer, runs=cost.runs, **about, **beside)

    def beside_attention(self, task: Task, seconds: float) -> dict[str, float | None]:
        """How many times as long attention takes; null, and beside it an extrapolated ratio, where it was skipped."""
        found: dict[str, float | None] = {}
        attention = task._replace(block="transformer")
        for side in self.sides:
            label = "attention" if side == "jax" else "torch_attention"
            measured = self.value(attention, side, "seconds")
            found[f"ratio_to_{label}"] = None if measured is None else measured / seconds
            predicted = self.value(attention, side, "predicted-seconds")
            if predicted is not None:
                found[f"extrapolated_ratio_to_{label}"] = predicted / seconds
        return found

    def summarise(self) -> None:
        """The exponents, and whether the longest forward pass fits where it must."""
        longest = max(self.options.lengths)
        for block in self.options.blocks:
            for of in PASSES:
                task = Task(block, self.options.width, longest, of)
                for what in ("seconds", "memory"):
                    self._exponents(task, what)
            figure = self.find(figure_name(Task(block, self.options.width, DEMANDED[0], "forward"), "jax", "memory"))
            if figure is not None and block != "transformer":
                peak = figure["peak_bytes"]
                name = f"blocks.{block}.forward.whole-process-memory.T={DEMANDED[0]}"
                self.add(name, peak, "bytes", limit_bytes=DEMANDED[1], within=peak <= DEMANDED[1])

    def _exponents(self, task: Task, what: str) -> None:
        fits = {}
        for side in self.sides:
            points = self.points(task, side, what)
            fits[side] = exponent([point for point in points if point[0] >= FIT_FROM]), exponent(points)
        fitted, entire = fits["jax"]
        if fitted is None:
            return
        theirs = {f"torch_{name}": fit for name, fit in zip(("value", "entire"), fits.get("torch", ()), strict=False)}
        lengths = [length for length, _ in self.points(task, "jax", what)]
        name = f"blocks.{task.block}.{task.of}.{what}-exponent"
        about = {"fitted_from": FIT_FROM, "lengths": lengths, "width": self.options.width}
        if self.records.find(name=name, **about) is None:  # with more lengths it is another figure
            self.records.add(name, fitted, "power of T", entire=entire, **about, **theirs)


def figure_name(task: Task, side: Side, what: str) -> str:
    """Of a line; those of the peer say so."""
    peer = ".torch" if side == "torch" else ""
    return f"blocks.{task.block}.{task.of}{peer}.{what}.T={task.length}"


def draw(bench: Bench, path: Path) -> None:
    """Time of a step by length, on logarithmic axes."""
    from matplotlib.ticker import StrMethodFormatter

    from validation.report.svg import PALETTE, figure, style

    colours = {"resonance": PALETTE["tier-2"], "eigenstate": PALETTE["pass"], "transformer": PALETTE["control"]}
    with style():
        drawing, (axes,) = figure(3.6)
        for block in bench.options.blocks:
            for side in bench.sides:
                task = Task(block, bench.options.width, max(bench.options.lengths), "step")
                points = bench.points(task, side, "seconds")
                dashes = "-" if side == "jax" else (0, (4, 2))
                label = f"{block}, {'JAX' if side == 'jax' else 'PyTorch'}"
                axes.loglog(*zip(*points, strict=True), "o", ls=dashes, ms=4, color=colours[block], label=label)
        axes.set(xlabel="tokens", ylabel=f"training step of one block, s (width {bench.options.width})")
        axes.set_xticks(bench.options.lengths, [f"{length:,}" for length in bench.options.lengths])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.legend(loc="upper left")
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path, dpi=160, facecolor="white")


def main(options: Options) -> None:
    """Checks, measures, summarises and draws.

    Raises:
      ValueError: a length is no power of two, which blocks and chunks of all scales would divide, or the two sides differ.
    """
    for length in options.lengths:
        if length < 8 or length & (length - 1):
            raise ValueError(f"lengths has {length}, expected powers of two from 8 on")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    bench = Bench(options)
    blocks: list[BlockName] = [block for block in BLOCKS if block in options.blocks]
    if options.peer:
        for block in blocks:
            task = Task(block, options.width, CHECKED_LENGTH, "step")
            params = in_own_process(initial_parameters, task)
            bench.add(f"blocks.{block}.difference", in_own_process(check_same_mathematics, task, params), "relative")
    for length in sorted(options.lengths):
        for block in blocks:
            task = Task(block, options.width, length, "step")
            missing = list(bench.missing(task))
            params = in_own_process(initial_parameters, task) if missing else None
            for one, side in missing:
                bench.measure(one, side, params)
    bench.summarise()
    draw(bench, options.results.with_suffix(".png"))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
