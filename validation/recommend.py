"""What to do about it: actions in order of what they gain, with the gain measured where it was."""

from __future__ import annotations

import math
import shlex
from collections import Counter

import numpy as np
from jaxtyping import Float

from validation.criteria import bar, score
from validation.report import Dimension, Recommendation

PLURALS = {
    "exact duplicate": "exact copies",
    "near duplicate": "near copies",
    "low information": "rows without content",
    "no word order": "rows without word order",
    "high loss": "rows of high loss",
    "low loss": "rows that foretell each other",
}


def priority(points: float) -> int:
    """1 above 20 points of risk, 2 above 10, 3 above 5, 4 below."""
    return 1 if points > 20 else 2 if points > 10 else 3 if points > 5 else 4


def recommend(
    dimensions: list[Dimension],
    counts: Counter[str],
    flagged_rows: int,
    gains: Float[np.ndarray, " p"] | None,
    spread: float,
    data_path: str,
    has_reference: bool,
) -> list[Recommendation]:
    """Actions for a finished run.

    Args:
      dimensions: as judged.
      counts: flagged rows by issue.
      flagged_rows: distinct rows among them.
      gains: see `criteria.removal`.
      spread: of the tier-1 loss over seeds.
      data_path: as the user gave it.
      has_reference: whether a reference was given.
    """
    out = []
    by_name = {d.name: d for d in dimensions}
    harm = max((by_name[n].value or 0.0 for n in ("C1 harm", "C2 tail")), default=0.0)
    if gains is not None:
        out.append(_removal(counts, flagged_rows, gains, spread))
    elif flagged_rows:
        reason = f"{_listed(counts)}; too few to change the loss measurably, so nothing was retrained without them"
        out.append(Recommendation(4, "Look at the flagged rows", reason, flagged_rows, None, None, None))
    failed = [n for n in ("C1 harm", "C2 tail") if by_name[n].passed is False]
    left = harm - (float(gains.mean()) if gains is not None else 0.0)
    if failed and left > bar(spread):
        reason = (
            f"{' and '.join(failed)} failed, and {left:.2f} bits per token of it stay when the flagged rows are gone"
        )
        points = max(by_name[n].score or 0.0 for n in failed)
        action = "Replace part of the data by text of the reference's kind, or collect it again"
        out.append(Recommendation(priority(points), action, reason, 0, None, None, None))
    if not has_reference:
        command = f"python -m validation.cascade {shlex.quote(data_path)} --reference TRUSTED_SAMPLE"
        reason = "harm to held-out real text (C1) and to rare words (C2) is unknown without one"
        action = "Validate against a trusted sample of the same kind"
        out.append(Recommendation(3, action, reason, 0, command, None, None))
    return sorted(out, key=lambda r: r.priority)


def _removal(counts: Counter[str], rows: int, gains: Float[np.ndarray, " p"], spread: float) -> Recommendation:
    gain = float(gains.mean())
    half = 1.96 * float(gains.std(ddof=1)) / math.sqrt(len(gains))
    measured = f"{_listed(counts)}; training tier 1 again without them changed the held-out loss by {-gain:+.3f} bits per token"
    if gain <= half:
        action, points = "Keep the flagged rows unless you know better: removing them gained nothing", 0.0
    else:
        action, points = "Remove the flagged rows", score(gain / bar(spread))
    return Recommendation(priority(points), action, measured, rows, None, gain, (gain - half, gain + half))


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {PLURALS[issue]}" for issue, count in counts.most_common())
