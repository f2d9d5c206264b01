"""`python -m atlas_jax.training.runs.sample RUN`: what the model of a run writes after a prompt."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console

from atlas_jax.distributed.mesh import compilation_cache
from atlas_jax.models.generate import generate, truncate
from atlas_jax.training.checkpoint import CheckpointError
from atlas_jax.training.needles.probe import Reader
from atlas_jax.training.runs.run import Run, last_state, reopen
from atlas_jax.training.runs.settings import SettingsError
from atlas_jax.training.runs.text_data import DataError

BAD_INPUT, INTERRUPTED = 2, 130


@dataclass(frozen=True)
class Options:
    """Writes on from a prompt with the newest checkpoint of a run. Exit codes: 2 bad input, 130 interrupted."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    prompt: str = "\n"
    """Text to go on from, of any length."""
    tokens: int = 200
    """How many to write."""
    samples: int = 1
    """Texts to write, each drawn by itself."""
    temperature: float = 0.8
    """Below 1 sharpens what is drawn from."""
    top_k: int | None = None
    """Only so many of the likeliest tokens. Default: all."""
    top_p: float | None = 0.95
    """Only the likeliest tokens with so much probability together."""
    seed: int = 0
    """Of what is drawn."""


def samples(run: Run, options: Options) -> list[str]:
    """The prompt and what follows it, as often as asked for.

    Args:
      run: from `reopen`, of a tokenizer that is known.
      options: of the command.

    Raises:
      SettingsError: an option is out of its range, or the run has no tokenizer.
      CheckpointError: the run has no checkpoint that can be read.
    """
    tokenizer, config = run.tokens.tokenizer, run.config
    if tokenizer is None:
        raise SettingsError(
            f"{run.folder}: its data are tokens without a tokenizer, expected one that was trained on text"
        )
    for name in ("tokens", "samples"):
        if getattr(options, name) < 1:
            raise SettingsError(f"--{name} is {getattr(options, name)}, expected 1 or more")
    (prompt,) = tokenizer.encode_batch([options.prompt])
    if not len(prompt):
        raise SettingsError("--prompt is empty, expected at least one token")
    drawn = {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p}
    try:
        truncate(jnp.zeros((1, config.vocab_size)), **drawn)
    except ValueError as error:
        raise SettingsError(f"--{error}") from error
    params = last_state(run).params
    read = jnp.broadcast_to(jnp.asarray(prompt), (options.samples, len(prompt)))
    last = min(len(prompt), config.context)
    state = Reader(run.model, config, config.context)(params, read[:, :-last]) if len(prompt) > last else None
    draw = jax.jit(partial(generate, run.model, config, tokens=options.tokens, **drawn))
    found, _ = draw(params, read[:, -last:], jax.random.key(options.seed), state=state)
    return [tokenizer.decode(jnp.concatenate(pair).tolist()) for pair in zip(read, found, strict=True)]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    options = tyro.cli(Options, prog="python -m atlas_jax.training.runs.sample", args=arguments)
    compilation_cache()
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        written = samples(reopen(options.run), options)
    except KeyboardInterrupt:
        errors.print("\nInterrupted.")
        return INTERRUPTED
    except (SettingsError, DataError, CheckpointError, OSError) as error:
        errors.print(f"error: {error}")
        return BAD_INPUT
    out = Console(soft_wrap=True, highlight=False, markup=False)
    out.print("\n\n---\n\n".join(written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
