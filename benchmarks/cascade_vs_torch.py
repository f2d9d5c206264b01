"""The 18 trainings of the laptop profile: this project's tiers against the same models one by one in PyTorch eager.

Same data, windows, batches, initial parameters, optimizer mathematics, schedule and held-out measurements on the same
cores. Each measurement runs in a process of its own, ours and theirs in turn, so that noise falls on both. Ours counts
everything `train_tier` does (tracing, compiling or loading compiled code, initialisation, checkpoints); theirs counts
its loop alone. Run it as `python -m benchmarks.cascade_vs_torch` in the environment of `benchmarks/README.md`.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jaxtyping import Float, PyTree

from atlas_jax.data import Packed, batch_order
from atlas_jax.distributed.mesh import compilation_cache, usable_cores, use_host_devices
from benchmarks import figures
from spectral.resonance import ResonanceConfig
from validation.corpus import read_corpus
from validation.datasets import open_dataset
from validation.datasets.standard_library import write_standard_library
from validation.prepare import data_variants, held_out_for, prepare, training_windows
from validation.profiles import BRANCH_GRAIN, PROFILES, Profile, TierPlan
from validation.tiers import CHECKPOINTS, DECAY, HeldOut, Variant, learning_rates, model_config, train_tier

TOLERANCE = 1e-4  # relative, in the norm of each array
CHECKED_STEPS = 3


@dataclass(frozen=True)
class TierWork:
    """One tier's trainings, as both sides get them."""

    config: ResonanceConfig
    variants: list[Variant]
    packed: list[Packed]
    held_out: HeldOut
    steps: int
    plan: TierPlan
    profile: Profile


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a fresh process: no compiled code, threads or memory of an earlier measurement."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def tier_works(data: Path, profile: Profile) -> list[TierWork]:
    """The tiers of a run on `data`, laid out as `validation.cascade` lays them out."""
    problem = prepare(read_corpus(open_dataset(data), profile.text_bytes), None, profile, seed=0)
    works = []
    for plan in profile.tiers:
        variants = data_variants(plan, 0)
        packed = training_windows(problem.data, plan, variants, problem, profile)
        config = model_config(plan, profile, problem.tokenizer.vocab_size)
        held_out = held_out_for(plan, variants, problem, profile)
        works.append(TierWork(config, variants, packed, held_out, problem.steps[plan], plan, profile))
    return works


def initial_parameters(config: ResonanceConfig, seeds: list[int]) -> list[PyTree]:
    """Parameters that each seed starts from, as NumPy arrays."""
    from spectral import resonance

    init = jax.jit(lambda seed: resonance.init(config, jax.random.key(seed)))
    return [jax.tree.map(np.asarray, init(seed)) for seed in seeds]


def run_jax(work: TierWork, cache: str) -> tuple[float, list[float]]:
    """Trains a tier as the command line does: seconds, and final held-out loss of every model in bits per token."""
    os.environ["ATLAS_CACHE"] = cache
    use_host_devices()
    compilation_cache()
    with tempfile.TemporaryDirectory() as directory:
        result = train_tier(
            work.config,
            work.variants,
            work.packed,
            work.held_out,
            steps=work.steps,
            plan=work.plan,
            segment=work.profile.segment,
            directory=Path(directory),
        )
    return result.seconds, result.loss[:, -1].tolist()


def run_torch(work: TierWork, params: list[PyTree], share: float) -> tuple[float, list[float], float]:
    """Trains the models of a tier one after the other on all cores.

    Args:
      work: the tier.
      params: what each model starts from.
      share: of the steps and of the held-out windows; the learning rates are those of a run that short.

    Returns:
      Seconds, scaled up to all steps; final held-out loss of every model in bits per token; share of steps really run.
    """
    import torch  # pyright: ignore[reportMissingImports]

    from benchmarks import torch_resonance

    torch.set_num_threads(usable_cores())
    full = _peer_work(work, 0, 1.0).steps
    seconds, losses, steps = 0.0, [], full
    for index, start in enumerate(params):
        peer = _peer_work(work, index, share)
        trained, steps = torch_resonance.train(work.config, start, peer), peer.steps
        seconds += trained.seconds * full / steps
        losses.append(trained.losses[-1])
    return seconds, losses, steps / full


def _peer_work(work: TierWork, index: int, share: float) -> Any:
    from benchmarks.torch_resonance import Work

    variant, packed = work.variants[index], work.packed[index]
    steps = BRANCH_GRAIN * max(1, round(work.steps * share / BRANCH_GRAIN))
    ends = [round(steps * end) for end in CHECKPOINTS]
    held_out = work.held_out.windows[: math.ceil(len(work.held_out.windows) * steps / work.steps)]
    return Work(
        windows=packed.tokens.copy(),
        order=batch_order(count=len(packed.tokens), batch=work.plan.batch, steps=steps, seed=variant.seed),
        rates=[learning_rates(np.array([variant.learning_rate]), steps, end)[0] for end in ends],
        decay_starts=[end - round(end * DECAY) for end in ends],
        held_out=held_out,
        measured=work.held_out.measured[: len(held_out)],
    )


@jax.enable_x64(True)
@jax.numpy_dtype_promotion("standard")  # metrics stay float32
def check_same_mathematics(work: TierWork, steps: int = CHECKED_STEPS) -> dict[str, float]:
    """Takes the first steps of a tier's first model on both sides.

    In float64, because Adam makes unit steps even of gradients that in float32 are nothing but rounding.

    Returns:
      Relative difference of loss, gradient (at the start) and change of the parameters (after the last step), in the
      norm of the worst array.

    Raises:
      ValueError: one of them is above TOLERANCE.
    """
    import torch  # pyright: ignore[reportMissingImports]

    from atlas_jax.training import adamw, init_state, make_step
    from benchmarks import torch_resonance
    from spectral import resonance
    from validation.tiers import LN2, token_losses

    def loss_fn(params: PyTree, windows: Any, key: jax.Array | None) -> tuple[jax.Array, dict[str, Any]]:
        del key
        return token_losses(work.config, params, windows)[0].mean() * LN2, {}

    optimizer, layers, batch = adamw(), work.config.layers, work.plan.batch
    key = jax.random.key(0)
    params = jax.tree.map(lambda leaf: leaf.astype("float64"), resonance.init(work.config, key))
    start, state = torch_resonance.named_arrays(params, layers), init_state(params, optimizer, key)
    model = torch_resonance.build(work.config, params, work.profile.length).double()
    peer_optimizer = torch_resonance.adam(model)
    batches = [work.packed[0].tokens[i * batch : (i + 1) * batch].copy() for i in range(steps)]
    rates = learning_rates(np.array([work.variants[0].learning_rate]), work.steps, work.steps)[0]

    gradient = torch_resonance.named_arrays(
        jax.jit(jax.grad(lambda p: loss_fn(p, batches[0], None)[0]))(params), layers
    )
    torch_resonance.loss(model, torch.from_numpy(batches[0]).long()).backward()
    found = {"gradient": _worst(gradient, {name: p.grad.numpy() for name, p in model.named_parameters()})}
    step, found["loss"] = jax.jit(make_step(loss_fn, optimizer)), 0.0
    for windows, rate in zip(batches, rates, strict=False):
        state, metrics = step(state, windows, np.float64(rate))
        peer_loss = torch_resonance.train_step(model, peer_optimizer, torch.from_numpy(windows).long(), float(rate))
        found["loss"] = max(found["loss"], abs(float(metrics["loss"]) / float(peer_loss) - 1))
    ours = torch_resonance.named_arrays(state.params, layers)
    theirs = {name: p.detach().numpy() for name, p in model.named_parameters()}
    found["update"] = _worst({n: ours[n] - start[n] for n in ours}, {n: theirs[n] - start[n] for n in theirs})
    above = {name: value for name, value in found.items() if not value <= TOLERANCE}
    if above:
        raise ValueError(f"not the same mathematics at width {work.config.d_model}: {above}, expected <= {TOLERANCE}")
    return found


def _worst(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    return max(float(np.linalg.norm(ours[n] - theirs[n]) / np.linalg.norm(ours[n])) for n in theirs)


def main(data: Path | None = None, /, steps: int = 640, torch_share: float = 1.0) -> None:
    """Prints the figures as JSON lines.

    Args:
      data: text to train on; default the documentation inside Python's standard library.
      steps: optimizer steps of a model, a multiple of 80.
      torch_share: share of the steps that PyTorch really runs; its seconds are scaled up from there.
    """
    with tempfile.TemporaryDirectory() as directory:
        cache, path = Path(directory, "cache"), data or Path(directory, "standard-library.jsonl")
        if data is None:
            write_standard_library(path)
        works = tier_works(path, replace(PROFILES["laptop"], steps=steps))
        for tier, work in enumerate(works, start=1):
            for name, value in in_own_process(check_same_mathematics, work).items():
                print(figures.line(f"cascade.tier-{tier}.difference.{name}", value, "relative"), flush=True)
        sums = np.zeros(3)
        for tier, work in enumerate(works, start=1):
            sums += _measure_tier(f"cascade.tier-{tier}", work, cache, torch_share)
        models = sum(len(work.variants) for work in works)
        _print_seconds("cascade", sums, {"models": models, "steps": works[0].steps, "peer_share_asked": torch_share})


def _measure_tier(name: str, work: TierWork, cache: Path, torch_share: float) -> Float[np.ndarray, 3]:
    """Prints a tier's figures; seconds of ours cold, ours warm and theirs."""
    params = in_own_process(initial_parameters, work.config, [variant.seed for variant in work.variants])
    cold, _ = in_own_process(run_jax, work, str(cache))
    peer, peer_losses, share = in_own_process(run_torch, work, params, torch_share)
    warm, losses = in_own_process(run_jax, work, str(cache))
    about = {"models": len(work.variants), "steps": work.steps, "peer_share_run": share}
    _print_seconds(name, np.array([cold, warm, peer]), about)
    comparable = float(np.mean(peer_losses)) if share == 1 else None
    print(figures.line(f"{name}.loss", float(np.mean(losses)), "bits per token", comparable, **about), flush=True)
    return np.array([cold, warm, peer])


def _print_seconds(name: str, seconds: Float[np.ndarray, 3], about: dict[str, Any]) -> None:
    cold, warm, peer = seconds.tolist()
    for label, ours in (("cold", cold), ("warm", warm)):
        print(figures.line(f"{name}.seconds.{label}", ours, "s", peer, peer / ours, **about), flush=True)


if __name__ == "__main__":
    tyro.cli(main)
