"""TNT against Titans at chunk 8: seconds of training to the same held-out loss.

    python -m benchmarks.tnt_speedup

Titans is one memory with small chunks. TNT is a global memory and a local one with shards: its first stage trains at large local
chunks, its second, the last 1/20 of its steps, goes on with the same parameters at the small ones of Titans. Width, layers,
heads, optimiser, learning rate, text and order of batches are the same; the feed-forward of TNT is narrower, so that parameters
are. The rate is constant after a warm-up: with a decay the loss would depend on how long the run was meant to be.

Titans trains for a number of steps. TNT ends its first stage once its held-out loss is Titans' last, the second when its share
is done and the loss is there too; a cap of steps ends both. Seconds are those of training steps: compilation stands apart,
evaluation is not counted. A side whose line is in `--results` is not trained again.

Source: TNT (arXiv:2511.07343), which reports 17.37 times less training time to a loss than Titans, on accelerators.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from atlas_jax.models import atlas
from atlas_jax.models.atlas_config import NetworkName
from benchmarks.quality.corpora import Corpus, count_bytes, encode, read_corpus
from benchmarks.quality.records import Records
from benchmarks.quality.sizes import parameters_of, with_parameters
from benchmarks.quality.timed_training import Data, Point, Training
from benchmarks.quality.trials import Contestant, parameters_agree

CORPUS = "library-documentation"
SECOND_STAGE = 1 / 20  # of all steps of TNT
PUBLISHED = 17.37
EQUAL = 0.02  # share by which "equal" parameters may differ
TITANS, TNT = "titans", "tnt"


@dataclass(frozen=True)
class Options:
    """Trains both and compares; prints figures and appends them to a file."""

    steps: int = 200
    """Optimizer steps of Titans."""
    cap: float = 1.5
    """Most steps of TNT, in those of Titans."""
    every: int = 10
    """Steps between two evaluations."""
    batch: int = 1
    """Sequences per step."""
    length: int = 2048
    """Tokens of a sequence."""
    rate: float = 0.003
    """Learning rate after the warm-up; not tuned."""
    warmup: int = 20
    d_model: int = 128
    layers: int = 2
    heads: int = 2
    network: NetworkName = "mlp"
    """Of the memories."""
    expansion: int = 4
    feed_forward: int = 512
    """Of Titans."""
    chunk: int = 8
    """Of Titans, and of the local memory in TNT's second stage."""
    local_chunk: int = 64
    """Of the local memory in TNT's first stage."""
    global_chunk: int = 64
    shard: int = 256
    vocab_size: int = 512
    windows: int = 6
    """Held-out sequences."""
    seed: int = 0
    quick: bool = False
    """The smallest sizes, to see that all works."""
    results: Path = Path("benchmarks/results/tnt_speedup.jsonl")


def quick(options: Options) -> Options:
    """The same in seconds: nothing to conclude from."""
    sizes = {"d_model": 16, "layers": 1, "heads": 2, "expansion": 1, "feed_forward": 128, "length": 64, "windows": 8}
    chunks = {"chunk": 8, "local_chunk": 16, "global_chunk": 32, "shard": 32, "vocab_size": 257}
    return replace(options, steps=20, every=5, warmup=5, batch=2, network="linear", **sizes, **chunks)


def read_data(corpus: Corpus, options: Options) -> Data:
    """The corpus as windows of a byte-pair encoding of its training part."""
    encoded = encode(corpus, vocab_size=options.vocab_size, length=options.length, windows=options.windows)
    return Data(encoded.train, encoded.test, count_bytes(encoded.tokenizer, encoded.test), corpus.fingerprint())


def contestants(options: Options) -> dict[str, Contestant]:
    """Both models, TNT as in its first stage, with the feed-forward that brings its parameters to those of Titans.

    Raises:
      ValueError: there is no such feed-forward, or a chunk, shard or width does not fit.
    """
    shared = ("vocab_size", "d_model", "layers", "heads", "network", "expansion", "feed_forward")
    sizes: dict[str, Any] = {name: getattr(options, name) for name in shared}
    titans = atlas.AtlasConfig(**sizes, context=options.length, chunks=(options.chunk,), tied=True)
    hierarchy = {"shard": options.shard, "global_chunk": options.global_chunk, "projection": "norm_sum"}
    tnt = replace(titans, chunks=(options.local_chunk,), **hierarchy)
    configs = {TITANS: titans, TNT: with_parameters(TNT, atlas, tnt, parameters_of(atlas, titans))}
    found = {name: Contestant(name, "one-size", atlas, it, parameters_of(atlas, it)) for name, it in configs.items()}
    parameters_agree(found.values(), EQUAL)
    return found


def start(one: Contestant, data: Data, options: Options) -> Training:
    """A model before its first step."""
    most = round(options.steps * max(1.0, options.cap)) + 1
    sizes = {"batch": options.batch, "steps": most, "rate": options.rate, "warmup": options.warmup}
    return Training(one, data, seed=options.seed, **sizes)


def train_titans(one: Contestant, data: Data, options: Options) -> Training:
    """All steps at one chunk."""
    training = start(one, data, options)
    while training.steps < options.steps:
        training.advance(min(options.every, options.steps - training.steps))
    return training


def train_tnt(one: Contestant, data: Data, options: Options, target: float) -> tuple[Training, float]:
    """Both stages, each until the held-out loss is at the target or the cap; the second at least its share.

    Returns:
      The training, and the bits per byte at small chunks before the second stage.
    """
    training, most = start(one, data, options), round(options.cap * options.steps)
    first, reached = round(most * (1 - SECOND_STAGE)), False
    while training.steps < first and not reached:
        reached = training.advance(min(options.every, first - training.steps)).bits <= target
    training.set_chunks((options.chunk,))
    before = training.evaluate()
    least = training.steps + max(1, round(training.steps * SECOND_STAGE / (1 - SECOND_STAGE)))
    while training.steps < least or (training.curve[-1].bits > target and training.steps < most):
        aim = least if training.steps < least else most
        training.advance(min(options.every, aim - training.steps))
    return training, before


def stages(curve: list[Point], tokens: int) -> list[dict[str, float]]:
    """Of every stretch at one chunk: the chunk, its steps, its tokens a second and the loss at its end."""
    found, last = [], Point(0, 0.0, 0.0, 0)
    for i, point in enumerate(curve):
        if i + 1 == len(curve) or curve[i + 1].chunk != point.chunk:
            steps = point.step - last.step
            rate = round(steps * tokens / (point.seconds - last.seconds), 1)
            found.append({"chunk": point.chunk, "steps": steps, "tokens_per_second": rate, "bits": point.bits})
            last = point
    return found


def record(records: Records, training: Training, options: Options, **more: Any) -> dict[str, Any]:
    """A side's line: its last held-out loss, and all that it took."""
    one, last, tokens = training.one, training.curve[-1], options.batch * options.length
    curve = [[point.step, round(point.seconds, 3), round(point.bits, 5), point.chunk] for point in training.curve]
    about = {
        "seconds": last.seconds,
        "compile_seconds": training.compiling,
        "tokens": last.step * tokens,
        "tokens_per_second": last.step * tokens / last.seconds,
        "parameters": one.parameters,
        "own_feed_forward": one.config.feed_forward,
        "stages": stages(training.curve, tokens),
        "curve": curve,
    }
    return records.add(f"tnt-speedup.{one.name}", last.bits, "bits per byte", **about, **more)


def compare(records: Records, titans: dict[str, Any], tnt: dict[str, Any], key: dict[str, Any]) -> None:
    """Seconds to the last held-out loss of Titans, of TNT with both stages and with the first alone."""
    target = titans["curve"][-1][2]
    peer = next(seconds for _, seconds, bits, _ in titans["curve"] if bits <= target)
    first = [point for point in tnt["curve"] if point[3] == key["local_chunk"]][-1]
    for name, (_, seconds, bits, _) in (("both-stages", tnt["curve"][-1]), ("first-stage", first)):
        reached = bits <= target
        verdict = f"TNT {'reached' if reached else 'did not reach'} {target:.4f} bits per byte: {bits:.4f}"
        about = {"reached": reached, "verdict": f"{verdict} after {seconds:.1f} s, Titans after {peer:.1f} s"}
        about |= {"titans_bits": target, "tnt_bits": bits, "published": PUBLISHED}
        records.add(f"tnt-speedup.equal-loss.{name}", seconds, "s", peer if reached else None, **about, **key)


def main(options: Options) -> None:
    """Trains what is not recorded yet, and compares."""
    options = quick(options) if options.quick else options
    records, data = Records(options.results), read_data(read_corpus(CORPUS, None), options)
    key = {name: value for name, value in asdict(options).items() if name not in ("quick", "results")}
    key |= {"corpus": CORPUS, "fingerprint": data.fingerprint}
    found = contestants(options)
    titans = records.find(name=f"tnt-speedup.{TITANS}", **key)
    titans = titans or record(records, train_titans(found[TITANS], data, options), options, **key)
    tnt = records.find(name=f"tnt-speedup.{TNT}", **key)
    if tnt is None:
        training, before = train_tnt(found[TNT], data, options, titans["curve"][-1][2])
        tnt = record(records, training, options, bits_before_second_stage=before, **key)
    compare(records, titans, tnt, key)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
