"""Realistic reports for the tests of the report: a damaged corpus against a clean reference, and variations of it."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from validation.report import (
    Activations,
    Checkpoint,
    Dimension,
    FlaggedRow,
    ModelResult,
    Prediction,
    Recommendation,
    Report,
    Scaling,
    Tier,
    Verdict,
)

NASTY = [
    "<script>alert('row')</script>",
    '"><img src=x onerror=alert(1)>',
    "[bold red]not markup[/bold red] [/] \x1b[2J\x1b[31mterminal command",
    "right-to-left \u202eoverride and a zero byte \x00 and a lone surrogate \udc80",
    "line one\r\nline two\nand a very long tail " + "x" * 300,
    "{{ 7 * 7 }} {% raw %} &amp; </td></table></style></svg>",
    "مرحبا بالعالم · 你好,世界 · 👩‍👩‍👧",
]
_LAW = (2.1, 30.0, 0.27, 150.0, 0.38)
_SIZES = ((0, 0, 0.0), (64, 410_000, 3e5), (128, 1_900_000, 1.2e6), (256, 9_400_000, 4e6))


def law(parameters: float, tokens: float) -> float:
    irreducible, a, alpha, b, beta = _LAW
    return irreducible + a * parameters**-alpha + b * tokens**-beta


def model(tier: int, index: int, role: str, excess: float) -> ModelResult:
    rng = np.random.default_rng([tier, index, role == "data"])
    parameters, tokens = _SIZES[tier][1], _SIZES[tier][2]
    rate = 0.003 if index % 2 == 0 else 0.001
    shift = excess + float(rng.normal(0, 0.02)) + (0.06 if rate == 0.001 else 0.0)
    seen = np.unique(np.linspace(tokens / 60, tokens, 60).astype(int))
    noise = rng.normal(0, 0.06, seen.size)
    curve = [
        (int(t), float(law(parameters, t) + shift - 0.05 + 4 * np.exp(-t / tokens * 25) + n))
        for t, n in zip(seen, noise, strict=True)
    ]
    checkpoints = [
        Checkpoint(int(tokens * f), law(parameters, tokens * f) + shift, law(parameters, tokens * f) * 1.9 + 3 * shift)
        for f in (0.25, 0.5, 0.75, 1.0)
    ]
    last = checkpoints[-1]
    return ModelResult(
        name=f"tier {tier} {'model' if role == 'data' else 'control'} {index + 1}",
        role=role,
        subsample=index // 2,
        seed=index,
        learning_rate=rate,
        status="restarted at a lower rate" if (tier, index, role) == (1, 3, "data") else "completed",
        loss=last.loss,
        bits_per_byte=last.loss / 3.4,
        tail_loss=last.tail_loss,
        accuracy=0.41 - 0.05 * shift,
        checkpoints=checkpoints,
        curve=curve,
        activations=Activations(energy=3.1 + shift, entropy=0.91, concentration=0.24, variance=2.9, rank=12.3),
    )


def tier(number: int, excess: float, with_control: bool) -> Tier:
    data = [model(number, i, "data", excess) for i in range((0, 10, 5, 3)[number])]
    controls = [model(number, i, "control", 0.0) for i in range((0, 5, 3, 0)[number])] if with_control else []

    def better(models: list[ModelResult]) -> list[float]:
        return [one.loss for one in models if one.learning_rate == 0.003]

    return Tier(
        tier=number,
        d_model=_SIZES[number][0],
        parameters=_SIZES[number][1],
        tokens_per_model=int(_SIZES[number][2]),
        unique_tokens_per_model=int(_SIZES[number][2] / 2),
        loss=float(np.mean(better(data))),
        spread=float(np.std(better(data))),
        control_loss=float(np.mean(better(controls))) if controls else None,
        control_spread=float(np.std(better(controls))) if controls else None,
        seconds=41.7 * number**2,
        models=data + controls,
    )


def scaling(tiers: list[Tier], excess: float, with_control: bool) -> Scaling:
    irreducible, *rest = _LAW
    points = [
        {
            "tier": float(one.tier),
            "parameters": float(one.parameters),
            "tokens": float(c.tokens),
            "loss": c.loss,
            "fitted": law(one.parameters, c.tokens) + excess,
        }
        for one in tiers
        for c in one.models[0].checkpoints
    ]
    predicted, actual = law(_SIZES[3][1], _SIZES[3][2]) + excess + 0.03, tiers[2].loss
    written = f"tier-3 loss predicted {predicted:.4f} bits per token [{predicted - 0.09:.4f}, {predicted + 0.09:.4f}]"
    return Scaling(
        irreducible=irreducible + excess,
        parameter_scale=rest[0],
        parameter_exponent=rest[1],
        data_scale=rest[2],
        data_exponent=rest[3],
        residual=0.021,
        gain_per_doubling=0.118,
        gain_interval=(0.091, 0.149),
        control_gain_per_doubling=0.241 if with_control else None,
        prediction=Prediction(
            predicted=predicted,
            interval=(predicted - 0.09, predicted + 0.09),
            baseline=tiers[1].loss,
            written=written,
            digest=hashlib.sha256(written.encode()).hexdigest(),
            actual=actual,
            error=predicted - actual,
        ),
        points=points,
    )


def dimensions(excess: float, with_control: bool) -> list[Dimension]:
    """Against a control where there is one; unknown, saying so, where there is none."""
    harmful = excess > 0.1
    unknown = "Unknown: no trusted reference was given, so there is no control to compare with."
    against_control = [
        ("C1 harm", "Do models trained on this data predict real text worse than the control?", excess, 0.05),
        ("C2 tail", "Do they lose the rare tokens?", 3.1 * excess, 0.15),
    ]
    made = [
        Dimension(
            name=name,
            question=question,
            value=value if with_control else None,
            unit="bits per token",
            control=0.0 if with_control else None,
            interval=(value - 0.03, value + 0.03) if with_control else None,
            threshold=bar,
            score=min(100.0, 50 * value / bar) if with_control else None,
            passed=value <= bar if with_control else None,
            note="Mean of tier 1 and 2, paired by seed and rate." if with_control else unknown,
        )
        for name, question, value, bar in against_control
    ]
    rest = [
        (
            "C3 recursion",
            "Does it get worse when a model trains on its own samples?",
            None,
            "bits per generation",
            0.05,
            None,
        ),
        (
            "C5 scaling",
            "Does more of this data still help?",
            0.118 if harmful else 0.236,
            "bits per doubling",
            0.18,
            71.0,
        ),
        (
            "Duplication",
            "How much of it is a copy of another row?",
            0.31 if harmful else 0.004,
            "share of rows",
            0.1,
            94.0,
        ),
        (
            "Diversity",
            "How much of the text repeats itself?",
            0.412 if harmful else 0.61,
            "distinct 4-grams",
            0.5,
            66.0,
        ),
        ("Generalisation gap", "Is training loss far below held-out loss?", 0.09, "bits per token", 0.3, 15.0),
    ]
    for name, question, value, unit, bar, score in rest:
        rising = name in {"C3 recursion", "Duplication", "Generalisation gap"}
        passed = None if value is None else (value <= bar if rising else value >= bar)
        made.append(
            Dimension(
                name=name,
                question=question,
                value=value,
                unit=unit,
                control=None if value is None or not with_control else value * 0.9,
                interval=None if value is None else (value * 0.92, value * 1.08),
                threshold=bar,
                score=None if value is None or score is None else (12.0 if passed and score > 50 else score),
                passed=passed,
                note="Not run in this profile: three generations take too long on two cores."
                if value is None
                else "Over the whole data.",
            )
        )
    return made


def flagged(rows: int) -> list[FlaggedRow]:
    rng = np.random.default_rng(5)
    made = [
        FlaggedRow(i + 1, f"part-{NASTY[0]}.jsonl", "high loss", 9.0, f"evidence {t}", t) for i, t in enumerate(NASTY)
    ]
    for i, row in enumerate(sorted(rng.integers(rows // 3, rows * 2 // 3, 40).tolist())):
        made.append(
            FlaggedRow(
                row,
                "damaged.jsonl",
                "exact duplicate",
                1.0,
                f"copy of row {i + 3}",
                f"The harbour at dawn, number {i}.",
            )
        )
    for i, row in enumerate(sorted(rng.integers(1, rows, 14).tolist())):
        made.append(
            FlaggedRow(
                row, "damaged.jsonl", "low information", 4.2, "compresses to 8 % of its length", f"aaaa bbbb {i} " * 12
            )
        )
    for i, row in enumerate(sorted(rng.integers(rows // 2, rows, 12).tolist())):
        made.append(
            FlaggedRow(
                row,
                "damaged.jsonl",
                "near duplicate",
                0.91,
                f"91 % like row {i}",
                f"She walked to the market with basket {i}.",
            )
        )
    return made


def recommendations() -> list[Recommendation]:
    command = "python -m validation.cascade damaged.jsonl --apply repaired.jsonl --remove 'exact duplicate'"
    return [
        Recommendation(
            2,
            "Remove near duplicates",
            "12 % of rows repeat another with small changes.",
            1204,
            None,
            0.004,
            (-0.01, 0.02),
        ),
        Recommendation(
            1,
            "Remove exact duplicates",
            "31 % of rows are copies; repeats teach nothing new.",
            3102,
            command,
            0.214,
            (0.18, 0.25),
        ),
        Recommendation(
            4, "Look at the rows of high loss", "They may be shuffled or in another language.", 7, None, None, None
        ),
    ]


def data(rows: int, with_control: bool, name: str) -> dict:
    return {
        "path": f"/data/{name}",
        "files": [name],
        "format": "jsonl",
        "schema": "plain text",
        "columns": ["text", NASTY[1]],
        "rows": rows,
        "skipped_rows": 3,
        "bytes": 12_345_678,
        "tokens": 3_210_987,
        "tokenizer": "byte-level BPE, 4,096 tokens, trained on this data",
        "reference": "/data/clean.jsonl" if with_control else None,
        "statistics": {
            "exact_duplicate_share": 0.31,
            "near_duplicate_share": 0.12,
            "unigram_entropy": 8.71,
            "zipf_slope": -1.04,
            "distinct_4_grams": 0.412,
            "compression_ratio": None,
            "length_quantiles": (21, 110, 240, 512, 1900, 4100, 9400),
        },
    }


def example(
    name: str = "damaged.jsonl", excess: float = 0.31, with_control: bool = True, companions: bool = False
) -> Report:
    """A full report; `excess` is the harm in bits per token, above 0.05 it fails."""
    harmful = excess > 0.05
    tiers = [tier(number, excess, with_control) for number in (1, 2, 3)]
    rows = 10_000
    verdict = Verdict(
        risk=94.0 if harmful else 23.0,
        passed=not harmful,
        calibrated=False,
        type="duplication" if harmful else None,
        fail_above=50.0,
        summary="This data would harm a model: 31 % of its rows are copies, and models trained on it predict real text "
        "0.31 bits per token worse than the control."
        if harmful
        else "Nothing in this data harms a model at these sizes.",
        formula="The highest score among the dimensions that gave an answer.",
        minimum_detectable_harm=0.041 if with_control else None,
        minimum_detectable_harm_note="From five pairs of tier-1 models; a smaller harm may exist."
        if with_control
        else "Give a trusted sample with --reference to measure harm.",
    )
    shown = flagged(rows) if harmful else []
    counts = {"exact duplicate": 3102, "near duplicate": 1204, "low information": 14, "high loss": 7} if harmful else {}
    return Report(
        verdict=verdict,
        dimensions=dimensions(excess, with_control),
        tiers=tiers,
        scaling=scaling(tiers, excess, with_control),
        flagged_rows=shown,
        flagged_counts=counts,
        recommendations=recommendations() if harmful else [],
        data=data(rows, with_control, name),
        environment={
            "versions": {"python": "3.11.2", "jax": "0.10.0", "numpy": "2.3.1"},
            "devices": ["cpu:0"],
            "profile": "cpu",
            "seed": 0,
            "seconds": {"load": 1.2, "statistics": 4.4, "tier 1": 41.7, "tier 2": 166.8, "tier 3": 375.3},
            "peak_memory": 1_912_000_000,
            "command": f"python -m validation.cascade {name}",
        },
        config={"tiers": {"models": [10, 5, 3]}, "fail_above": 50.0, "note": NASTY[0], "reference": None},
        companions=[example("clean.jsonl", 0.0, with_control)] if companions else [],
    )


def without_measurements(report: Report) -> Report:
    """The same data where training gave nothing: no scaling law, no tiers, every dimension unknown."""
    unknown = [
        dataclasses.replace(d, value=None, control=None, interval=None, score=None, passed=None)
        for d in report.dimensions
    ]
    return dataclasses.replace(
        report, dimensions=unknown, scaling=None, tiers=[], flagged_rows=[], flagged_counts={}, recommendations=[]
    )
