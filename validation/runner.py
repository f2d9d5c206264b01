"""One run from files to report: read, prepare, three tiers, score rows, train without the flagged ones, judge.

Each stage is a function of what came before; what takes long is kept in `OUT/state` as it is finished, so that an
interrupted run goes on from there to the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float

from atlas_jax.data import Packed
from spectral import resonance
from validation.assemble import Request, Trained, assemble, checkpoint_tokens, flagged_row, tier_losses
from validation.controls import cached_controls, control_key
from validation.corpus import by_target, circle, deal, read_corpus
from validation.localize import NULL_TOKENS, Flags, Judges, Scored, flag_rows, score_side
from validation.prepare import Problem, Side, data_variants, held_out_for, prepare, training_windows
from validation.profiles import Profile, TierPlan
from validation.report import Prediction, Report
from validation.scaling import predict
from validation.tiers import (
    FORMAT,
    TierResult,
    Variant,
    evaluate_models,
    load_result,
    model_config,
    store_result,
    train_tier,
)

WORTH_RETRAINING = 0.005  # of the tokens; losing fewer costs less than the spread over seeds
JUDGES = {"data": (0, 3, 6), "controls": (0, 2, 4)}  # tier-1 models that score rows: no row lies in all their arcs


@runtime_checkable
class Progress(Protocol):
    """What a run tells while it works."""

    def stage(self, name: str) -> None:
        """A stage begins."""
        ...

    def plan(self, units: float) -> None:
        """The work ahead: model-steps weighted by model size."""
        ...

    def training(self, label: str, models: str, share: float, units: float, loss: float) -> None:
        """Some models of a tier have done this share of their steps, which is so much of the work."""
        ...

    def finished(self, text: str) -> None:
        """Something worth a line is complete."""
        ...


class StateError(ValueError):
    """The kept state does not belong to this run; the message says what differs."""


def run(request: Request, progress: Progress) -> Report:
    """Runs the cascade.

    Raises:
      DatasetError: the data or the reference cannot be read, or holds too little text.
      StateError: `resume` was asked for and the state is of another run.
    """
    clock = _Stages()
    profile = request.profile
    progress.stage("reading")
    corpus = read_corpus(request.data, profile.text_bytes)
    reference = None if request.reference is None else read_corpus(request.reference, profile.text_bytes)
    clock.done("reading")
    progress.stage("statistics, duplicates and tokens")
    problem = prepare(corpus, reference, profile, seed=request.seed, tokenizer=request.tokenizer)
    state = _state(request, problem)
    clock.done("preparing")
    progress.plan(_units(problem, profile))
    trained: list[Trained] = []
    prediction: Prediction | None = None
    for number, plan in enumerate(profile.tiers, start=1):
        if number == len(profile.tiers):
            prediction = _predict(trained, plan, problem, profile, state)
            progress.finished(prediction.written)
        trained.append(_train(number, plan, problem, profile, state, progress))
    assert prediction is not None
    clock.done("training")
    progress.stage("scoring rows")
    flags = _flags(trained[0], problem, profile)
    clock.done("scoring rows")
    gains = _removal_gains(flags, trained[0], problem, profile, state, progress)
    clock.done("training without the flagged rows")
    report = assemble(request, problem, trained, prediction, flags, gains, clock.seconds)
    _write_flags(request, problem, flags)
    return report


def discard_state(out: Path) -> None:
    """Removes what only an interrupted run needs."""
    shutil.rmtree(out / "state", ignore_errors=True)


class _Stages:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def done(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now


def _state(request: Request, problem: Problem) -> Path:
    """The folder of this run's state, empty unless it is to be resumed."""
    folder = request.out / "state"
    facts = {
        "data": problem.data.corpus.fingerprint,
        "reference": None if problem.reference is None else problem.reference.corpus.fingerprint,
        "profile": asdict(request.profile),
        "tokenizer": problem.tokenizer.fingerprint(),
        "seed": request.seed,
        "devices": len(jax.devices()),
        "format": FORMAT,
        "jax": jax.__version__,
    }
    facts = json.loads(json.dumps(facts))
    note = folder / "run.json"
    if request.resume and note.exists():
        kept = json.loads(note.read_text(encoding="utf-8"))
        different = [name for name in facts if facts[name] != kept.get(name)]
        if different:
            raise StateError(
                f"cannot resume from {folder}: {', '.join(different)} differ from the interrupted run; "
                "leave out --resume to start anew"
            )
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written = note.with_suffix(".tmp")
    written.write_text(json.dumps(facts), encoding="utf-8")
    written.replace(note)
    return folder


def _parameters(plan: TierPlan, profile: Profile, vocab_size: int) -> int:
    config = model_config(plan, profile, vocab_size)
    shapes = jax.eval_shape(lambda: resonance.init(config, jax.random.key(0)))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def _units(problem: Problem, profile: Profile) -> float:
    """All training ahead, in parameters x models; the repeat without flagged rows is counted in as it is likely."""
    controls = [plan.controls if problem.reference is not None else 0 for plan in profile.tiers]
    sizes = [_parameters(plan, profile, problem.tokenizer.vocab_size) for plan in profile.tiers]
    models = [plan.count + extra for plan, extra in zip(profile.tiers, controls, strict=True)]
    return float(sum(s * m for s, m in zip(sizes, models, strict=True)) + sizes[0] * profile.tiers[0].models[0])


def _train(number: int, plan: TierPlan, problem: Problem, profile: Profile, state: Path, progress: Progress) -> Trained:
    config = model_config(plan, profile, problem.tokenizer.vocab_size)
    parameters = _parameters(plan, profile, problem.tokenizer.vocab_size)
    first = sum(p.count for p in profile.tiers[: number - 1]) + 1
    variants = data_variants(plan, problem.seed)

    def train(side: Side, chosen: list[Variant], folder: Path, label: str, models: str) -> TierResult:
        return train_tier(
            config,
            chosen,
            training_windows(side, plan, chosen, problem, profile),
            held_out_for(plan, chosen, problem, profile),
            plan=plan,
            steps=problem.steps[plan],
            segment=profile.segment,
            directory=folder,
            on_progress=lambda done, total, loss: progress.training(
                label, models, done / total, parameters * len(chosen), loss
            ),
        )

    models = f"models {first}-{first + plan.count - 1} of 18"
    folder = state / f"tier-{number}"
    data = load_result(folder / "result", config, plan.count) if (folder / "result").exists() else None
    if data is None:
        data = train(problem.data, variants, folder, f"tier {number} of 3", models)
        store_result(folder / "result", data)
    progress.training(f"tier {number} of 3", models, 1.0, parameters * plan.count, float(data.loss[:, -1].mean()))
    progress.finished(_tier_line(number, data, models))
    controls = None
    if problem.reference is not None and plan.controls:
        side, chosen = problem.reference, variants[: plan.controls]
        label = f"{plan.controls} controls"
        controls = cached_controls(
            control_key(problem, profile, plan),
            config,
            plan.controls,
            lambda: train(side, chosen, state / f"controls-{number}", f"tier {number} of 3", label),
        )
        units = parameters * plan.controls
        progress.training(f"tier {number} of 3", label, 1.0, units, float(controls.loss[:, -1].mean()))
        progress.finished(f"tier {number} controls: held-out loss {controls.loss[:, -1].mean():.3f} bits per token")
    return Trained(plan, variants, data, controls, parameters)


def _tier_line(number: int, data: TierResult, models: str) -> str:
    losses = " ".join(f"{loss:.3f}" for loss in data.loss[:, -1])
    restarted = f", {int((data.restarts > 0).sum())} restarted at a lower rate" if data.restarts.any() else ""
    return f"tier {number}: {models} complete{restarted}; held-out loss {losses} bits per token"


def _predict(trained: list[Trained], plan: TierPlan, problem: Problem, profile: Profile, state: Path) -> Prediction:
    """Writes down what the last tier should reach, before it trains; a resumed run keeps the line it wrote first."""
    log = state / "prediction.json"
    if not log.exists():
        tiers = [tier_losses(tier, problem, profile) for tier in trained]
        size = _parameters(plan, profile, problem.tokenizer.vocab_size)
        tokens = checkpoint_tokens(plan, problem, profile)
        _, value, interval = predict(tiers, size, tokens, problem.seed)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        line = (
            f"{when} tier 3 ({size:,} parameters, {int(tokens[-1]):,} tokens) is predicted to reach "
            f"{value:.4f} bits per token, 95 % interval {interval[0]:.4f} to {interval[1]:.4f}"
        )
        kept = {
            "predicted": value,
            "interval": interval,
            "baseline": float(tiers[-1].loss[:, -1].mean()),
            "written": line,
        }
        partial = log.with_suffix(".tmp")
        partial.write_text(json.dumps(kept), encoding="utf-8")
        partial.replace(log)
    kept = json.loads(log.read_text(encoding="utf-8"))
    digest = hashlib.sha256(kept["written"].encode()).hexdigest()
    low, high = kept["interval"]
    return Prediction(kept["predicted"], (low, high), kept["baseline"], kept["written"], digest, None, None)


def _judges(tier: Trained, which: str, problem: Problem, profile: Profile) -> Judges:
    side, result = (problem.data, tier.data) if which == "data" else (problem.reference, tier.controls)
    assert side is not None
    assert result is not None
    chosen = list(JUDGES[which])
    return Judges(
        model_config(tier.plan, profile, problem.tokenizer.vocab_size),
        jax.tree.map(lambda leaf: leaf[chosen], result.params),
        [tier.variants[i].subsample / tier.plan.count for i in chosen],
        profile.tokens(tier.plan, problem.steps[tier.plan]) + profile.length,
        side.circle,
    )


def _flags(tier: Trained, problem: Problem, profile: Profile) -> Flags:
    own = _judges(tier, "data", problem, profile)
    trusted = None if problem.reference is None else _judges(tier, "controls", problem, profile)
    scored = score_side(problem.data, own, trusted, problem, length=profile.length, limit=profile.score_tokens)
    known: Scored | None = None
    if problem.reference is not None:
        known = score_side(problem.reference, own, trusted, problem, length=profile.length, limit=NULL_TOKENS)
    return flag_rows(problem, scored, known)


def _removal_gains(
    flags: Flags, tier: Trained, problem: Problem, profile: Profile, state: Path, progress: Progress
) -> Float[np.ndarray, " p"] | None:
    """Tier-1 loss with all rows minus loss without the flagged ones, per pair of equal seed; None if too few to matter."""
    bad = np.unique(flags.rows)
    if problem.reference is None:
        # Rows that foretell each other may be a narrow but good part of the data: measured on the rest alone, leaving them out
        # would always seem to help.
        bad = np.unique(
            [row for row, issue in zip(flags.rows, flags.issue, strict=True) if issue != "low loss"]
        ).astype(int)
    sizes, data = problem.data.tokens.sizes, problem.data
    kept = np.setdiff1d(data.circle.order, bad)
    removed = sizes[data.circle.order].sum() - sizes[kept].sum()
    plan = tier.plan
    if removed < WORTH_RETRAINING * sizes.sum() or sizes[kept].sum() < 8 * profile.tokens(plan, 1):
        return None
    places = deal(problem.duplicates.group, problem.seed)
    without = replace(data, circle=circle(kept, places, sizes))
    config = model_config(plan, profile, problem.tokenizer.vocab_size)
    chosen = tier.variants[: plan.models[0]]
    held_out = held_out_for(plan, chosen, problem, profile)
    if problem.reference is None:  # what is removed must not be asked for either
        held_out = held_out._replace(measured=held_out.measured & ~np.isin(_held_out_rows(problem), bad))
    label = f"{len(chosen)} models without the flagged rows"
    result = train_tier(
        config,
        chosen,
        training_windows(without, plan, chosen, problem, profile),
        held_out,
        plan=plan,
        steps=problem.steps[plan],
        segment=profile.segment,
        directory=state / "removal",
        checkpoints=(1.0,),
        on_progress=lambda done, total, loss: progress.training(
            "removal", label, done / total, tier.parameters * len(chosen), loss
        ),
    )
    params = jax.tree.map(lambda leaf: leaf[: len(chosen)], tier.data.params)
    before = evaluate_models(config, params, held_out, plan)[0]
    progress.finished(
        f"without the flagged rows tier 1 gains {float((before - result.loss[:, -1]).mean()):+.3f} bits per token"
    )
    return before - result.loss[:, -1]


def _held_out_rows(problem: Problem) -> np.ndarray:
    """Row of every held-out target, [n, t]; row 0 on padding, which is not measured."""
    sizes = problem.data.tokens.sizes[problem.held_out_rows]
    windows = problem.held_out.windows
    return by_target(np.repeat(problem.held_out_rows, sizes), Packed(windows, np.zeros_like(windows)))


def _write_flags(request: Request, problem: Problem, flags: Flags) -> None:
    """All flagged rows, one JSON object a line, beside the report."""
    target = request.out / "flagged_rows.jsonl"
    partial = target.with_suffix(".tmp")
    with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for index in range(len(flags.rows)):
            row = flagged_row(flags, index, problem.data.corpus, request.data.metadata)
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
    partial.replace(target)
