"""What each part of Resonance and Eigenstate is worth: bits per byte with it, without it, or with it put in. One JSON line each.

    python -m benchmarks.ablations

Everything else is equal: corpus, batches, initial parameters of shared parts, learning rate, trainer. The peer of
every line is the model as it ships, so a ratio above 1 says the variant is better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import tyro

from atlas_jax.distributed.mesh import compilation_cache, use_host_devices
from atlas_jax.types import PyTree
from benchmarks.quality.corpora import available_corpora, encode
from benchmarks.quality.records import Records, spread
from benchmarks.quality.trials import Contestant, contestants, train
from benchmarks.text_quality import UNIT, bits_per_byte, starting_rate
from spectral import resonance
from spectral.layers import coefficients, octave_modes

SHIPPED = "as it ships"
CHANNEL_BLOCK = 32


@dataclass(frozen=True)
class Options:
    """Trains the variants; prints figures and appends them to a file."""

    corpora: tuple[str, ...] = ("library-documentation", "wikitext-2")
    """What to train on."""
    presets: tuple[str, ...] = ("micro-32", "micro-128")
    """Sizes."""
    seeds: int = 3
    """Models of each kind."""
    steps: int = 640
    """Optimizer steps of 4 windows of 128 tokens."""
    data: Path | None = None
    """Folder of data sets; the environment variable ATLAS_DEV_DATA if not given."""
    results: Path = Path("benchmarks/results/ablations.jsonl")
    """Lines are appended here, and those here already are not measured again."""


def with_config(**changes: Any) -> Callable[[Contestant], Contestant]:
    """The model with other settings."""
    return lambda contestant: contestant._replace(config=replace(contestant.config, **changes))


def with_init(change: Callable[[Any, PyTree], PyTree]) -> Callable[[Contestant], Contestant]:
    """The model with other starting parameters."""

    def varied(contestant: Contestant) -> Contestant:
        model: Any = SimpleNamespace(
            PRESETS={},
            init=lambda config, key: change(config, resonance.init(config, key)),
            init_state=resonance.init_state,
            apply=resonance.apply,
            step=resonance.step,
        )
        return contestant._replace(model=model)

    return varied


def _modes(config: Any, params: PyTree, log_rate: np.ndarray, frequency: np.ndarray) -> PyTree:
    """The parameters with the modes of every layer started elsewhere."""
    parts = (log_rate, frequency, *coefficients(log_rate))
    stacked = [jnp.asarray(np.broadcast_to(part, (config.layers, *part.shape)), jnp.float32) for part in parts]
    mixer = {
        **params["blocks"]["mixer"],
        **dict(zip(("log_rate", "frequency", "real", "imaginary"), stacked, strict=True)),
    }
    return {**params, "blocks": {**params["blocks"], "mixer": mixer}}


def one_band(config: Any, params: PyTree) -> PyTree:
    """No hierarchy: every head starts with the same modes, spread over all memories."""
    log_rate, frequency = octave_modes(1, config.modes, float(config.context))
    return _modes(config, params, *(np.repeat(part, config.heads, axis=0) for part in (log_rate, frequency)))


def no_oscillation(config: Any, params: PyTree) -> PyTree:
    """All modes start as pure decays."""
    log_rate, frequency = octave_modes(config.heads, config.modes, float(config.context))
    return _modes(config, params, log_rate, np.zeros_like(frequency))


RESONANCE: dict[str, Callable[[Contestant], Contestant]] = {
    SHIPPED: lambda contestant: contestant,
    "with AdvancedSpectralGating": with_config(band_gate=True),
    f"with SpectralFFN, blocks of {CHANNEL_BLOCK} channels": with_config(channel_block=CHANNEL_BLOCK),
    "without the hierarchy of bands": with_init(one_band),
    "without oscillation at the start": with_init(no_oscillation),
    "one mode a band": with_config(modes=1),
}
EIGENSTATE: dict[str, Callable[[Contestant], Contestant]] = {
    SHIPPED: lambda contestant: contestant,
    "with the hierarchy of scales": with_config(scales=(1, 2, 4, 8)),
    "selective": with_config(selective=True),
    "one mode a head": with_config(modes=1),
}
VARIANTS = {"resonance": RESONANCE, "eigenstate": EIGENSTATE}


def main() -> None:
    """Trains every variant on one corpus after the other."""
    options = tyro.cli(Options, description=__doc__)
    use_host_devices()
    compilation_cache()
    records = Records(options.results)
    for corpus, text in available_corpora(options.corpora, options.data):
        encoded = encode(text, vocab_size=1024, length=128, windows=512)
        for shipped in contestants(tuple(VARIANTS), options.presets, vocab_size=1024, length=128):
            peer = None
            for name, vary in VARIANTS[shipped.name].items():
                key = {"model": shipped.name, "variant": name, "corpus": corpus, "preset": shipped.preset}
                key |= {"steps": options.steps}
                found = records.find(seeds=options.seeds, **key)
                if found is None:
                    rate, seeds = starting_rate(shipped), list(range(options.seeds))
                    contestant = vary(shipped)
                    trained = train(
                        contestant, encoded.train, seeds=seeds, rates=[rate] * len(seeds), steps=options.steps, batch=4
                    )
                    losses = bits_per_byte(contestant, trained.params, encoded, encoded.test).tolist()
                    found = records.add(
                        f"ablation.{corpus}.{shipped.name}.{shipped.preset}",
                        float(np.mean(losses)),
                        UNIT,
                        peer,
                        seeds=options.seeds,
                        losses=losses,
                        spread=spread(losses),
                        seconds=trained.seconds,
                        rate=rate,
                        **key,
                    )
                peer = found["value"] if name == SHIPPED else peer


if __name__ == "__main__":
    main()
