"""Numbers, verdicts and untrusted text in the words that the page and the terminal share."""

from __future__ import annotations

import math
import os
import unicodedata
from typing import Any

from validation.report.model import Dimension, Interval, Recommendation, Report, Verdict

NOT_MEASURED = "not measured"

# Zero-width joiners carry meaning in Indic scripts, Persian and emoji; they cannot reorder or hide text.
_KEPT_FORMAT_CHARACTERS = {"\u200c", "\u200d"}


def visible(text: str, keep: str = "\n\t") -> str:
    """Untrusted text with every control and direction-changing character written as an escape.

    A row may hold terminal commands, right-to-left overrides that reorder what a reader sees, or lone surrogates that
    cannot be encoded.

    Args:
      text: any text.
      keep: control characters left as they are.

    Returns:
      text that encodes to UTF-8 and shows what it holds.
    """
    return "".join(c if c in keep or _harmless(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str, limit: int | None = None) -> str:
    """`visible` text on one line, line breaks shown as ↵ and the end cut at `limit` characters with an ellipsis."""
    line = visible(text.replace("\r\n", "\n").replace("\n", " ↵ ").replace("\t", " "), keep="")
    return line if limit is None or len(line) <= limit else line[: max(limit - 1, 0)].rstrip() + "…"


_FORMS = ((2.0**64, ".5e"), (1000, ",.0f"), (100, ".1f"), (0.01, ".3f"), (0.001, ".4f"))
"""How numbers are written from a size on; the first is beyond counts and 64-bit integers, where floats have up to 309 digits."""


def number(value: int | float | None) -> str:
    """A number with digits enough to compare it, or "not measured" for None and NaN."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    size = abs(value)
    if value == int(value) and size < _FORMS[0][0]:
        return f"{int(value):,}"
    form = next((form for least, form in _FORMS if size >= least), ".2e")
    return f"{value:{form}}"


def signed(value: int | float | None) -> str:
    """`number` with its sign written out."""
    text = number(value)
    return text if text == NOT_MEASURED or value is None or value <= 0 else f"+{text}"


def interval(bounds: Interval | None) -> str:
    """An interval as "0.120 to 0.190", or "no interval"."""
    return "no interval" if bounds is None else f"{number(bounds[0])} to {number(bounds[1])}"


def compact(value: int | float) -> str:
    """A large count in three digits: 1.24M."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:  # from here on three digits round up to the unit
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}"


def file_size(size: int | float) -> str:
    """Bytes in decimal units: 12.3 MB."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} bytes"


def duration(seconds: int | float) -> str:
    """Seconds as hours, minutes and seconds."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def risk_points(value: int | float | None) -> str:
    """Points of risk without decimals, except where rounding would hide on which side of a bar they lie."""
    if value is None or not math.isfinite(value):
        return "unknown"
    return f"{value:.0f}" if abs(value - 50) >= 1 or value == 50 else f"{value:.1f}"


def result(passed: bool | None) -> str:
    """ "pass", "fail" or "unknown"."""
    return "unknown" if passed is None else "pass" if passed else "fail"


def bar(dimension: Dimension) -> str:
    """The bar of a dimension with the direction in which it is passed, where the measurement shows the direction."""
    if dimension.threshold is None:
        return "no bar"
    if dimension.value is None or dimension.passed is None:
        return f"{number(dimension.threshold)}"
    at_most = (dimension.value <= dimension.threshold) == dimension.passed
    return f"{'at most' if at_most else 'at least'} {number(dimension.threshold)}"


def gain(recommendation: Recommendation) -> str:
    """What following a recommendation was measured to be worth, in words."""
    value, bounds = recommendation.measured_gain, recommendation.measured_gain_interval
    if value is None:
        return "Gain not measured."
    effect = "lowered" if value > 0 else "raised" if value < 0 else "did not change"
    amount = f" by {number(abs(value))} bits per token" if value else ""
    text = f"Measured: tier 1 retrained with this change {effect} held-out loss{amount}"
    if bounds is None:
        return f"{text} (no interval)."
    doubt = "; this is not distinguishable from zero" if bounds[0] <= 0 <= bounds[1] else ""
    return f"{text} (95 % interval of the gain {interval(bounds)}){doubt}."


def calibration(verdict: Verdict) -> str:
    """Whether the risk may be read as a probability."""
    if verdict.calibrated:
        return "Calibrated: the risk is a probability of collapse, fitted on labelled cases."
    return "Uncalibrated: the risk is a score, not a probability; no calibration on labelled cases exists yet."


def detectable_harm(verdict: Verdict) -> str:
    """The smallest harm that the run would have shown, in words; a pass says nothing about less."""
    smallest = verdict.minimum_detectable_harm
    if smallest is None or not math.isfinite(smallest):
        return "Minimum detectable harm unknown: no control was trained, so no size of harm was ruled out."
    size = f"{number(smallest)} bits per token of excess held-out loss"
    return f"Minimum detectable harm: {size} (80 % power)."


def unknown_dimensions(report: Report) -> list[str]:
    """Names of the dimensions on which this run gives no answer."""
    return [dimension.name for dimension in report.dimensions if dimension.passed is None]


def report_name(report: Report) -> str:
    """A short name for a report: the last part of its data path."""
    path = str(report.data.get("path", "dataset"))
    return os.path.basename(path.rstrip("/\\")) or path


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 row", "2,000 rows"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def label(key: Any) -> str:
    """A key of a dictionary as words for a table."""
    words = str(key).replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def _harmless(character: str) -> bool:
    if character in _KEPT_FORMAT_CHARACTERS:
        return True
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def screened(prescreen: dict[str, Any]) -> str:
    """What was known before training, as a sentence."""
    risk = "risk unknown" if prescreen["risk"] is None else f"risk {risk_points(prescreen['risk'])} of 100"
    return f"Before training: {risk}. {'; '.join(prescreen['reasons']) or prescreen['recommendation']}"
