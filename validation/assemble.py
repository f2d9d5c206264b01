"""From what a run measured to its report."""

from __future__ import annotations

import platform
import resource
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from atlas_jax.data import Tokenizer
from validation import criteria
from validation.activations import describe_activations
from validation.corpus import Corpus
from validation.datasets import Dataset, Metadata
from validation.localize import Flags
from validation.prepare import Problem
from validation.prescreen import PreScreen
from validation.profiles import Profile, TierPlan
from validation.recommend import recommend
from validation.report import (
    Activations,
    Checkpoint,
    Dimension,
    FlaggedRow,
    ModelResult,
    Prediction,
    Report,
    Scaling,
    Tier,
)
from validation.scaling import Law, TierLosses, fit_tiers, gain_per_doubling
from validation.tiers import CHECKPOINTS, TierResult, Variant, model_config

LISTED_ROWS = 500  # flagged rows shown in the report, at most; all of them are in flagged_rows.jsonl
SHOWN_CHARACTERS = 240
LOST = {  # dimension: question, what its tokens are, issues that count towards it
    "Duplicates": (
        "How much do exact and near copies cost?",
        "copies of other rows",
        ("exact duplicate", "near duplicate"),
    ),
    "Broken rows": (
        "How much do rows without content or word order cost?",
        "rows without content or word order",
        ("low information", "no word order"),
    ),
}


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes:
      data, reference: opened datasets.
      profile: size of the run.
      out: folder for the report; `out/state` holds what an interrupted run needs.
      seed: of the run.
      fail_above: bar for the risk.
      tokenizer: the user's own, or None.
      resume: go on from `out/state`.
      settings: the command line, for the report.
      prescreen: what was known before training; None where nobody looked.
    """

    data: Dataset
    reference: Dataset | None
    profile: Profile
    out: Path
    seed: int
    fail_above: float
    tokenizer: Tokenizer | None
    resume: bool
    settings: dict[str, Any]
    prescreen: PreScreen | None = None


@dataclass(frozen=True)
class Trained:
    """The models of one tier."""

    plan: TierPlan
    variants: list[Variant]
    data: TierResult
    controls: TierResult | None
    parameters: int


def checkpoint_tokens(plan: TierPlan, problem: Problem, profile: Profile) -> Float[np.ndarray, " 4"]:
    """Tokens that a model of the tier has seen at its four decayed checkpoints."""
    return np.array([profile.tokens(plan, round(problem.steps[plan] * share)) for share in CHECKPOINTS], float)


def tier_losses(tier: Trained, problem: Problem, profile: Profile) -> TierLosses:
    """What the scaling law is fitted to: the models of the better learning rate."""
    best = criteria.better_rate(tier.data, tier.plan.multipliers())
    return TierLosses(tier.parameters, checkpoint_tokens(tier.plan, problem, profile), tier.data.loss[best])


def _dimensions(
    trained: list[Trained], problem: Problem, profile: Profile, law: Law, flags: Flags, gains: np.ndarray | None
) -> tuple[list[Dimension], float, str]:
    """All dimensions, the minimum detectable harm and its note."""
    questions = {
        "C1 harm": "Do models trained on it do worse on held-out real text?",
        "C2 tail": "And on the rarest decile of words?",
    }
    small, large = trained[0], trained[1]
    groups = [criteria.equal_groups(t.data, t.plan.multipliers()) for t in (small, large)]
    out: list[Dimension] = []
    if small.controls is not None and large.controls is not None:
        pairs = {
            name: [
                criteria.Pairs(getattr(t.data, field)[: t.plan.controls, -1], getattr(t.controls, field)[:, -1])
                for t in (small, large)
            ]
            for name, field in (("C1 harm", "loss"), ("C2 tail", "tail_loss"))
        }
        out += [criteria.harm(name, questions[name], pairs[name]) for name in pairs]
        spread = criteria.pooled_spread([p.control for p in pairs["C1 harm"]])
        detectable, note = criteria.detectable_against_reference(pairs["C1 harm"])
        control = large.controls.loss
    else:
        why = "needs a trusted sample of the same kind: --reference"
        out += [criteria.unknown(name, question, "bits per token", why) for name, question in questions.items()]
        spread = criteria.pooled_spread([g for tier in groups for g in tier])
        detectable, note = criteria.detectable_alone(criteria.pooled_spread(groups[0]), small.plan.models[0])
        control = None
    later = "not measured by this version"
    out.append(
        criteria.unknown("C3 recursion", "Does training on its own samples degrade?", "bits per generation", later)
    )
    out.append(criteria.unknown("C4 coverage", "Do samples cover the reference?", "share of recall", later))
    paired = large.data.loss[: large.plan.models[0]]
    out.append(criteria.scaling_gain(paired, control, spread))
    cost = criteria.token_cost(law, large.parameters, int(checkpoint_tokens(large.plan, problem, profile)[-1]))
    for name, (question, what, issues) in LOST.items():
        named = _token_share(issues, flags, problem)
        share = named
        if "no word order" in issues:
            share = _token_share(tuple(i for i in issues if i != "no word order"), flags, problem) + flags.orderless
        out.append(criteria.lost_tokens(name, question, what, share, named, cost, spread))
    out.append(criteria.removal(gains, criteria.pooled_spread(groups[0])))
    return out, detectable, note


def _token_share(issues: tuple[str, ...], flags: Flags, problem: Problem) -> float:
    """Share of the data's tokens in rows flagged for any of these issues."""
    rows = np.unique([row for row, issue in zip(flags.rows, flags.issue, strict=True) if issue in issues]).astype(int)
    return float(problem.data.tokens.sizes[rows].sum() / problem.data.tokens.sizes.sum())


def assemble(
    request: Request,
    problem: Problem,
    trained: list[Trained],
    prediction: Prediction,
    flags: Flags,
    gains: np.ndarray | None,
    seconds: dict[str, float],
) -> Report:
    """The report of a finished run."""
    profile = request.profile
    tiers = [tier_losses(tier, problem, profile) for tier in trained]
    law = fit_tiers(tiers)
    actual = float(tiers[-1].loss[:, -1].mean())
    prediction = replace(prediction, actual=actual, error=actual - prediction.predicted)
    dimensions, detectable, note = _dimensions(trained, problem, profile, law, flags, gains)
    reference = None if request.reference is None else request.reference.metadata.path
    counts = Counter(flags.issue)
    spread = criteria.pooled_spread(criteria.equal_groups(trained[0].data, trained[0].plan.multipliers()))
    metadata = request.data.metadata
    distinct = len(np.unique(flags.rows))
    return Report(
        verdict=criteria.judge(dimensions, request.fail_above, detectable, note, reference),
        dimensions=dimensions,
        tiers=[_tier(number, tier, problem, profile) for number, tier in enumerate(trained, start=1)],
        scaling=_scaling(law, tiers, trained, prediction),
        flagged_rows=[flagged_row(flags, i, problem.data.corpus, metadata) for i in _listed(flags)],
        flagged_counts=dict(counts),
        recommendations=recommend(
            dimensions, counts, distinct, gains, spread, metadata.path, request.reference is not None
        ),
        data=_data(request, problem, reference),
        environment=_environment(request, seconds),
        config={
            **request.settings,
            "profile": asdict(profile),
            "steps": [problem.steps[plan] for plan in profile.tiers],
        },
        prescreen=None if request.prescreen is None else request.prescreen.as_dict(),
    )


def _tier(number: int, tier: Trained, problem: Problem, profile: Profile) -> Tier:
    best = criteria.better_rate(tier.data, tier.plan.multipliers())
    models = _models(number, "data", tier, tier.data, problem, profile)
    if tier.controls is not None:
        models += _models(number, "control", tier, tier.controls, problem, profile)
    final = tier.data.loss[best, -1]
    control = None if tier.controls is None else tier.controls.loss[:, -1]
    tokens = profile.tokens(tier.plan, problem.steps[tier.plan])
    return Tier(
        tier=number,
        d_model=tier.plan.model.d_model,
        parameters=tier.parameters,
        tokens_per_model=tokens,
        unique_tokens_per_model=min(tokens, problem.data.circle.tokens),
        loss=float(final.mean()),
        spread=criteria.pooled_spread(criteria.equal_groups(tier.data, tier.plan.multipliers())),
        control_loss=None if control is None else float(control.mean()),
        control_spread=None if control is None else float(control.std(ddof=1)),
        seconds=round(tier.data.seconds, 2),
        models=models,
    )


def _models(
    number: int, role: str, tier: Trained, result: TierResult, problem: Problem, profile: Profile
) -> list[ModelResult]:
    config = model_config(tier.plan, profile, problem.tokenizer.vocab_size)
    described = describe_activations(config, result.params, problem.held_out.windows)
    return [
        _model(number, index, role, tier, result, activations, problem, profile)
        for index, activations in enumerate(described)
    ]


def _model(
    number: int,
    index: int,
    role: str,
    tier: Trained,
    result: TierResult,
    activations: Activations,
    problem: Problem,
    profile: Profile,
) -> ModelResult:
    variant = tier.variants[index]
    tokens = checkpoint_tokens(tier.plan, problem, profile)
    curve = result.curve[index]
    seen = np.linspace(0, tokens[-1], len(curve) + 1)[1:]
    thin = np.unique(np.linspace(0, len(curve) - 1, 64).astype(int))
    return ModelResult(
        name=f"tier {number} {'model' if role == 'data' else 'control'} {index + 1}",
        role=role,
        subsample=variant.subsample,
        seed=variant.seed,
        learning_rate=float(result.learning_rate[index]),
        status="restarted at a lower rate" if result.restarts[index] else "completed",
        loss=float(result.loss[index, -1]),
        bits_per_byte=float(result.loss[index, -1] / problem.held_out.bytes_per_token),
        tail_loss=float(result.tail_loss[index, -1]),
        accuracy=float(result.accuracy[index]),
        checkpoints=[
            Checkpoint(int(t), float(loss), float(tail))
            for t, loss, tail in zip(tokens, result.loss[index], result.tail_loss[index], strict=True)
        ],
        curve=[(int(seen[i]), float(curve[i])) for i in thin],
        activations=activations,
    )


def _scaling(law: Law, tiers: list[TierLosses], trained: list[Trained], prediction: Prediction) -> Scaling:
    gain, interval = gain_per_doubling(tiers[-1].loss)
    controls = trained[1].controls
    points = [
        {
            "tier": float(number),
            "parameters": float(t.parameters),
            "tokens": float(tokens),
            "loss": float(loss),
            "fitted": float(law.loss(t.parameters, tokens)),
        }
        for number, t in enumerate(tiers, start=1)
        for tokens, loss in zip(t.tokens, t.loss.mean(axis=0), strict=True)
    ]
    return Scaling(
        irreducible=law.irreducible,
        parameter_scale=law.a,
        parameter_exponent=law.alpha,
        data_scale=law.b,
        data_exponent=law.beta,
        residual=law.residual,
        gain_per_doubling=gain,
        gain_interval=interval,
        control_gain_per_doubling=None if controls is None else gain_per_doubling(controls.loss)[0],
        prediction=prediction,
        points=points,
    )


def _listed(flags: Flags) -> list[int]:
    """Which flags the report shows: every issue gets its share of the places, strongest first."""
    by_issue: dict[str, list[int]] = {}
    for i, issue in enumerate(flags.issue):
        by_issue.setdefault(issue, []).append(i)
    share = LISTED_ROWS // max(1, len(by_issue))
    return [i for members in by_issue.values() for i in members[:share]]


def flagged_row(flags: Flags, index: int, corpus: Corpus, metadata: Metadata) -> FlaggedRow:
    """One flag as the report shows it."""
    row = int(flags.rows[index])
    return FlaggedRow(
        row=int(corpus.row[row]),
        file=metadata.files[int(corpus.file[row])],
        issue=flags.issue[index],
        score=float(flags.score[index]),
        detail=flags.detail[index],
        text=corpus.texts[row][:SHOWN_CHARACTERS],
    )


def _data(request: Request, problem: Problem, reference: str | None) -> dict[str, Any]:
    metadata, corpus = request.data.metadata, problem.data.corpus
    return {
        "path": metadata.path,
        "files": list(metadata.files),
        "format": metadata.format,
        "schema": metadata.schema,
        "fields": list(metadata.fields),
        "columns": list(metadata.columns),
        "bytes": metadata.bytes,
        "rows": corpus.rows_read,
        "rows_kept": len(corpus.texts),
        "skipped_rows": len(corpus.skipped),
        "skipped": [f"{file}: row {row}: {reason}" for file, row, reason in corpus.skipped[:20]],
        "tokens": int(problem.data.tokens.sizes.sum()),
        "tokens_in_copies": int(
            problem.data.tokens.sizes[problem.duplicates.group != np.arange(len(corpus.texts))].sum()
        ),
        "rows_also_in_the_held_out_part": int(problem.leaked.sum()),
        "held_out_tokens": int(problem.held_out.measured.sum()),
        "vocabulary": problem.tokenizer.vocab_size,
        "bytes_per_token": problem.held_out.bytes_per_token,
        "tokenizer": "given" if request.tokenizer else f"trained on the {'reference' if reference else 'data'}",
        "reference": reference,
        "reference_rows": None if problem.reference is None else problem.reference.corpus.rows_read,
        "statistics": asdict(corpus.statistics),
    }


def _environment(request: Request, seconds: dict[str, float]) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": version("flax"),
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "devices": f"{len(jax.devices())} x {device.device_kind}",
        "profile": request.profile.name,
        "seed": request.seed,
        "seconds_by_stage": seconds,
        "seconds": round(sum(seconds.values()), 2),
        "peak_memory": _peak_memory(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _peak_memory() -> int:
    """Largest resident size of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
