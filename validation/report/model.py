"""The report as data: what `report.json` holds, field by field.

Fields are only ever added; a change of meaning raises `SCHEMA_VERSION`. `None` always means "not measured", never zero.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = "1.0"

Interval = tuple[float, float]


@dataclass(frozen=True)
class Verdict:
    """What the run concludes.

    Attributes:
      risk: 0 to 100; see `formula`.
      passed: risk <= fail_above.
      calibrated: whether `risk` is a calibrated probability; False until a calibration on labelled cases exists.
      type: kind of damage that sets the risk ("duplication", "distribution", "rare pattern", "semantic"), None on a low risk.
      fail_above: the bar, in points of risk.
      summary: one or two sentences for a person.
      formula: how `risk` follows from the dimensions, in words.
      minimum_detectable_harm: smallest true excess loss, in bits per token, that this run would have called harm with
        80 % power, from the measured seed spread.
      minimum_detectable_harm_note: what that number means here, in words.
    """

    risk: float
    passed: bool
    calibrated: bool
    type: str | None
    fail_above: float
    summary: str
    formula: str
    minimum_detectable_harm: float | None
    minimum_detectable_harm_note: str


@dataclass(frozen=True)
class Dimension:
    """One measured property with its bar.

    Attributes:
      name: short name, for example "C1 harm".
      question: what it asks, in plain words.
      value: the measurement, in `unit`; None if unknown.
      unit: for example "bits per token".
      control: the same measurement on the control; None where there is none.
      interval: 95 % interval of `value`.
      threshold: the bar for `value`.
      score: 0 to 100 points of risk, 50 exactly at the bar; None if unknown.
      passed: whether the value is on the right side of the bar; None if unknown.
      note: how it was measured or why it is unknown.
    """

    name: str
    question: str
    value: float | None
    unit: str
    control: float | None
    interval: Interval | None
    threshold: float | None
    score: float | None
    passed: bool | None
    note: str


@dataclass(frozen=True)
class Checkpoint:
    """A decayed checkpoint: tokens seen so far, held-out loss in bits per token, and the same on the rarest decile."""

    tokens: int
    loss: float
    tail_loss: float


@dataclass(frozen=True)
class Activations:
    """What the last layer of a model puts out on held-out text, described and not judged.

    Powers are those of the Fourier transform over the tokens of a window.

    Attributes:
      energy: mean square.
      entropy: of the power over frequencies, over its maximum: 0 is one frequency, 1 is white.
      concentration: share of the power in the strongest tenth of the frequencies.
      variance: mean variance of a channel.
      rank: effective number of channels that vary, 1 to the width.
    """

    energy: float
    entropy: float
    concentration: float
    variance: float
    rank: float


@dataclass(frozen=True)
class ModelResult:
    """One trained model.

    Attributes:
      name: for example "tier 1 model 3".
      role: "data" or "control".
      subsample: index of the part of the data it saw; models that share it saw the same rows.
      seed: seed of initialisation and data order.
      learning_rate: peak rate.
      status: "completed", or "restarted at a lower rate" after a divergence.
      loss: held-out loss at the end, bits per token.
      bits_per_byte: the same per byte of held-out text.
      tail_loss: held-out loss on the rarest decile of tokens, bits per token.
      accuracy: share of held-out tokens predicted exactly.
      checkpoints: decayed checkpoints in order of tokens.
      curve: (tokens seen, training loss in bits per token), thinned for plotting.
      activations: of its last layer.
    """

    name: str
    role: str
    subsample: int
    seed: int
    learning_rate: float
    status: str
    loss: float
    bits_per_byte: float
    tail_loss: float
    accuracy: float
    checkpoints: list[Checkpoint]
    curve: list[tuple[int, float]]
    activations: Activations


@dataclass(frozen=True)
class Tier:
    """One tier: models of equal size. `loss` and `spread` are mean and standard deviation over its data models at the
    better of the learning rates; `seconds` is wall time of training."""

    tier: int
    d_model: int
    parameters: int
    tokens_per_model: int
    unique_tokens_per_model: int
    loss: float
    spread: float
    control_loss: float | None
    control_spread: float | None
    seconds: float
    models: list[ModelResult]


@dataclass(frozen=True)
class Prediction:
    """Tier-3 loss (bits per token) as predicted before tier 3 trained. `digest` is the SHA-256 of `written`, the line
    that was put in the log before; `baseline` is the naive prediction "tier-3 loss = tier-2 loss"."""

    predicted: float
    interval: Interval
    baseline: float
    written: str
    digest: str
    actual: float | None
    error: float | None


@dataclass(frozen=True)
class Scaling:
    """Fitted law: loss(N, D) = irreducible + parameter_scale * N**-parameter_exponent + data_scale * D**-data_exponent,
    N parameters, D tokens, loss in bits per token. `gain_per_doubling` is the loss (bits per token) that doubling D saves at
    the end of the largest tier, `points` the (tier, parameters, tokens, loss, fitted) it rests on."""

    irreducible: float
    parameter_scale: float
    parameter_exponent: float
    data_scale: float
    data_exponent: float
    residual: float
    gain_per_doubling: float
    gain_interval: Interval
    control_gain_per_doubling: float | None
    prediction: Prediction
    points: list[dict[str, float]]


@dataclass(frozen=True)
class FlaggedRow:
    """A row worth looking at.

    Attributes:
      row: number in the original file: line for .txt and .jsonl, data record (from 1) elsewhere.
      file: name of the file, relative to the data path (its own name when that is a single file).
      issue: "exact duplicate", "near duplicate", "low information", "no word order", "high loss" or "low loss".
      score: strength within its issue; larger is worse; the unit is said in `detail`.
      detail: the evidence in words, for example "copy of row 17".
      text: the beginning of the row.
    """

    row: int
    file: str
    issue: str
    score: float
    detail: str
    text: str


@dataclass(frozen=True)
class Recommendation:
    """What to do about it. `priority` 1 is the most urgent; `measured_gain` (bits per token of held-out loss, positive is
    better) comes from retraining tier 1 with the change made, None where that was not measured; `command` is ready to run."""

    priority: int
    action: str
    reason: str
    rows: int
    command: str | None
    measured_gain: float | None
    measured_gain_interval: Interval | None


@dataclass(frozen=True)
class Report:
    """Everything one run found.

    Attributes:
      data: path, files, format, schema, columns used, rows, skipped_rows, bytes, tokens, tokenizer, reference (or None) and
        `statistics`: the numbers of the statistics pass by name, and `length_quantiles`.
      flagged_counts: all flagged rows by issue, also those that `flagged_rows` leaves out.
      environment: versions, devices, profile, seed, seconds by stage, peak memory in bytes, command.
      config: the resolved configuration.
      companions: reports shown beside this one (the demonstration's clean corpus).
      prescreen: what was known before training: risk, should_proceed, recommendation, reasons, findings, matches,
        probability and library; None where nobody looked. See `validation.prescreen.PreScreen`.
    """

    verdict: Verdict
    dimensions: list[Dimension]
    tiers: list[Tier]
    scaling: Scaling | None
    flagged_rows: list[FlaggedRow]
    flagged_counts: dict[str, int]
    recommendations: list[Recommendation]
    data: dict[str, Any]
    environment: dict[str, Any]
    config: dict[str, Any]
    companions: list[Report] = field(default_factory=list)
    prescreen: dict[str, Any] | None = None
    schema_version: str = SCHEMA_VERSION

    def to_json(self) -> str:
        """This report as JSON text (strict: a NaN is written as null)."""
        return json.dumps(_finite(dataclasses.asdict(self)), indent=2, ensure_ascii=False, allow_nan=False)

    def show(self) -> None:
        """Displays the page in a notebook, prints the summary elsewhere."""
        from validation.report.notebook import show  # the notebook view is built on this module

        show(self)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
