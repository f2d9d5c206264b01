"""Before any model is trained: is this dataset hopeless, and is it like others whose harm was measured?

Findings that need no library come from the dataset's profile and its uniform sample of rows; each has a bar that lies far
above what clean data show (docs/signatures.md has the figures), so that only data whose most part is copies, filler or cut
rows is stopped. Drift along the file is told and never stops a run: sorted data is as good as any after shuffling. Matches
come from the library of signatures, and count where they are calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from validation.diversity.low_information import is_low_information
from validation.diversity.texts import hash_texts, normalise
from validation.profile import Profile, features
from validation.profile.features import main_text
from validation.signatures.library import Library

ENOUGH_ROWS = 100
"""Rows of a sample from which a share of them is judged."""

LONG_ROW = 40  # characters from which a row of the greatest length counts as cut
SHOWN_CHARACTERS = 4096  # where the sample ends strings: a row so long was perhaps longer
CERTAIN = 0.8
"""Probability of collapse from which the library alone stops a run, where its skill is at least `SKILLED`: of five runs that
are stopped one would have done no harm. With 20 records of each outcome no probability can exceed 0.95."""

SKILLED = 0.5

_BARS: dict[str, tuple[float, str]] = {  # bar, and what the value is
    "copies": (0.75, "of the rows repeat an earlier one"),
    "one row": (0.5, "of the rows are one and the same"),
    "no content": (0.5, "of the rows are empty or hold nearly nothing"),
    "cut rows": (0.5, "of the rows end inside a word at the greatest length"),
    "repeated phrases": (0.5, "of the runs of 8 words occurred before"),
    "compression": (10.0, "times smaller when compressed"),
}


@dataclass(frozen=True)
class Finding:
    """One property of the data with its bar.

    Attributes:
      name: short name.
      value: as measured, in the unit that `words` say; None where there is too little to measure.
      bar: value from which the data is not worth training on; None where it never stops a run.
      score: points of risk, 50 at the bar; None where not measured.
      words: the finding for a person.
    """

    name: str
    value: float | None
    bar: float | None
    score: float | None
    words: str


@dataclass(frozen=True)
class PreScreen:
    """What is known before training.

    Attributes:
      risk: 0 to 100, the largest of the findings' scores and the library's calibrated probability; None: unknown.
      should_proceed: whether training is worth it.
      recommendation: what to do, in one sentence.
      reasons: why, one line each; the strongest first.
      findings: all of them.
      matches: the library's nearest records: similarity, family, outcome, harm, provenance.
      probability: of collapse, calibrated; None where the library cannot say.
      library: what the library's answer rests on.
    """

    risk: float | None
    should_proceed: bool
    recommendation: str
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    matches: tuple[dict[str, Any], ...] = field(default=())
    probability: float | None = None
    library: str = "no library was asked"

    def summary(self) -> str:
        """One line for a person."""
        risk = "risk unknown" if self.risk is None else f"risk {self.risk:.0f} of 100"
        found = "; ".join(self.reasons) or "nothing that would make training pointless"
        return f"{risk}, {found}"

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return asdict(self)


class PreScreenError(ValueError):
    """A dataset that is not worth training on; the message says why and how to train on it all the same."""

    def __init__(self, found: PreScreen) -> None:
        super().__init__(
            f"not trained: the pre-screen puts the risk at {found.risk:.0f} of 100: {'; '.join(found.reasons)}. "
            f"{found.recommendation} To train on it all the same: --force (force=True from Python)"
        )
        self.prescreen = found


def prescreen(profile: Profile, library: Library | None = None) -> PreScreen:
    """Judges a profiled dataset.

    Args:
      profile: of the dataset.
      library: signatures to compare it with; None asks none, so that JAX need not start.

    Returns:
      Risk, findings, matches, and whether to go on.
    """
    known = features(profile)
    findings = [_judged(name, value) for name, value in measure(profile, known).items()]
    findings += _drift(known)
    stopping = [one for one in findings if one.bar is not None and one.value is not None and one.value >= one.bar]
    scores = [one.score for one in findings if one.score is not None]
    matches: tuple[dict[str, Any], ...] = ()
    probability, certain, note = None, False, "no library was asked"
    if library is not None:
        from validation.signatures.matching import match

        matched, _ = match(library, known)
        probability, note = matched.probability, matched.note
        matches = tuple(
            {"similarity": one.similarity, **asdict(one.record), "features": None} for one in matched.matches
        )
        if probability is not None:
            scores.append(100 * probability)
            certain = probability >= CERTAIN and (matched.skill or 0.0) >= SKILLED
    stopping.sort(key=lambda one: -(one.score or 0.0))
    reasons = tuple(one.words for one in stopping)
    if certain:
        reasons += (f"like datasets that collapsed models: probability {probability:.0%}, {note}",)
    return PreScreen(
        risk=max(scores) if scores else None,
        should_proceed=not reasons,
        recommendation=_recommendation(stopping, certain, bool(scores)),
        reasons=reasons,
        findings=tuple(findings),
        matches=matches,
        probability=probability,
        library=note,
    )


def measure(profile: Profile, known: Mapping[str, float]) -> dict[str, float]:
    """The values of all findings that have a bar; nan where there is too little to measure.

    Args:
      profile: of the dataset.
      known: its features.
    """
    found = dict.fromkeys(_BARS, math.nan)
    column = main_text(profile)
    if column is None or column.leaf.name not in profile.sample.schema.names:
        return found  # rows of numbers and categories repeat by their nature
    texts = profile.sample.column(column.leaf.name).combine_chunks()
    if profile.rows >= ENOUGH_ROWS:
        found["copies"] = known["text_duplicate_share"]
    found["repeated phrases"] = known["text_repeated_8grams"]
    found["compression"] = known["text_compression_ratio"]
    if len(texts) >= ENOUGH_ROWS:
        found |= {"one row": _one_row(texts), "cut rows": _cut_rows(texts)}
        found["no content"] = float(is_low_information([text or "" for text in texts.to_pylist()]).mean())
    return found


def _one_row(texts: pa.Array) -> float:
    """Share of the most frequent row, empty ones apart."""
    rows = normalise(texts)
    keys = hash_texts(rows)[0][rows.lengths() > 0]
    return float(np.unique(keys, return_counts=True)[1].max(initial=0)) / len(texts)


def _cut_rows(texts: pa.Array) -> float:
    """Share of rows that have the greatest length and end with a letter or digit."""
    lengths = pc.call_function("utf8_length", [texts.cast(pa.large_string())]).fill_null(0).to_numpy()
    longest = int(lengths.max())
    if not LONG_ROW <= longest < SHOWN_CHARACTERS:
        return 0.0
    ends = texts.filter(pa.array(lengths == longest)).to_pylist()
    return sum(text[-1].isalnum() for text in ends) / len(texts)


def _judged(name: str, value: float) -> Finding:
    bar, what = _BARS[name]
    if not math.isfinite(value):
        return Finding(name, None, bar, None, f"{name}: not measured, too few rows of text")
    shown = f"{value:.1f} {what}" if name == "compression" else f"{value:.0%} {what}"
    return Finding(name, value, bar, min(100.0, 50 * max(value, 0.0) / bar), shown)


def _drift(known: Mapping[str, float]) -> list[Finding]:
    """What changes along the files, told without a bar."""
    changes = {name[6:]: value for name, value in known.items() if name.startswith("drift_") and math.isfinite(value)}
    if not changes:
        return [Finding("drift", None, None, None, "drift: not measured, too few rows")]
    aspect = max(changes, key=changes.__getitem__)
    if changes[aspect] == 0:
        return [Finding("drift", 0.0, None, None, "nothing changes along the files")]
    words = (
        f"{aspect} change along the files, by {changes[aspect]:.2f} of their spread at most: shuffle before training"
    )
    return [Finding("drift", changes[aspect], None, None, words)]


def _recommendation(stopping: list[Finding], certain: bool, measured: bool) -> str:
    if not stopping:
        if certain:
            return "Look at the datasets that it is like before spending on training."
        return "Go on to training." if measured else "Go on to training: nothing could be measured before it."
    return {
        "copies": "Remove the copies first: python -m validation.duplicates DATA --near --out copies.jsonl.",
        "one row": "Remove the copies of that row first: python -m validation.duplicates DATA --out copies.jsonl.",
        "no content": "Collect the text again, or remove the rows without content.",
        "cut rows": "Export the rows again without the limit on their length.",
        "repeated phrases": "Look for templates and boilerplate, and keep a few rows of each.",
        "compression": "Look for templates and boilerplate, and keep a few rows of each.",
    }[stopping[0].name]
