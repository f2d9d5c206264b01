"""Models trained on the reference, kept: a second dataset with the same reference pays nothing for them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import jax

from atlas_jax.distributed.mesh import cache_directory
from spectral.resonance import ResonanceConfig
from validation.prepare import Problem
from validation.profiles import Profile, TierPlan
from validation.tiers import FORMAT, TierResult, load_result, store_result


def control_key(problem: Problem, profile: Profile, plan: TierPlan) -> str:
    """Names everything that a control's result depends on; the data is not part of it."""
    assert problem.reference is not None
    facts = {
        "format": FORMAT,
        "jax": jax.__version__,
        "reference": problem.reference.corpus.fingerprint,
        "tokenizer": problem.tokenizer.fingerprint(),
        "profile": asdict(profile),
        "plan": asdict(plan),
        "steps": problem.steps[plan],
        "seed": problem.seed,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def cached_controls(key: str, config: ResonanceConfig, count: int, train: Callable[[], TierResult]) -> TierResult:
    """The controls under `key`, trained now if they are not kept yet.

    Args:
      key: from `control_key`.
      config: size of the models.
      count: how many.
      train: trains them.
    """
    final = cache_directory() / "controls" / key
    if final.exists():
        kept = load_result(final, config, count)
        if kept is not None:
            return kept
    result = train()
    partial = final.with_name(f"{key}.{os.getpid()}")
    store_result(partial, result)
    _move(partial, final)
    return result


def _move(partial: Path, final: Path) -> None:
    """Puts a finished folder in its place; another process may have been faster, with the same numbers."""
    try:
        partial.rename(final)
    except OSError:
        if not final.exists():
            raise
        shutil.rmtree(partial)
