"""Rows with nearly no content: empty, one thing repeated, placeholders, text that compresses to almost nothing.

The rules are few and strict, since every flagged row is shown to a person. The bar on compression lies well above clean
text: of 20 MB of reviews, encyclopedia, speeches, instructions and code in rows of 200 bytes or more, 99 % compressed
less than 3 times and none more than 4.4 times.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

LONG_BYTES = 200
MAX_RATIO = 8.0
MIN_REPEATS = 3

PLACEHOLDERS = frozenset(
    (
        "n/a",
        "na",
        "none",
        "null",
        "nil",
        "nan",
        "undefined",
        "todo",
        "tbd",
        "tba",
        "test",
        "placeholder",
        "empty",
        "blank",
        "unknown",
        "unavailable",
        "missing",
        "deleted",
        "removed",
        "[deleted]",
        "[removed]",
    )
)
WORD = re.compile(r"\w+")
LETTER = re.compile(r"[^\W\d_]")


def reasons(texts: Sequence[str]) -> list[str | None]:
    """Why each row has nearly no content, in words; None for rows that have."""
    return [_reason(text) for text in texts]


def is_low_information(texts: Sequence[str]) -> Bool[np.ndarray, " rows"]:
    """Whether each row has nearly no content."""
    return np.array([reason is not None for reason in reasons(texts)], bool)


def low_information_scores(texts: Sequence[str]) -> Float[np.ndarray, " rows"]:
    """How little content each row has.

    Returns:
      float64 in 0..1: 1 for rows caught by a rule on words; otherwise the share of a row's bytes that compression
      saves, 0 for rows under 200 bytes. Rows of 200 bytes or more are flagged from 0.875 on, a ratio of 8.
    """
    return np.array([1.0 if _worded_reason(text) else _saved(text) for text in texts], np.float64)


def _reason(text: str) -> str | None:
    worded = _worded_reason(text)
    if worded:
        return worded
    saved = _saved(text)
    return f"repetitive: compresses {1 / (1 - saved):.0f} times" if saved >= 1 - 1 / MAX_RATIO else None


def _worded_reason(text: str) -> str | None:
    bare = text.strip()
    if not bare:
        return "empty"
    if bare.strip(".!?-:<> ").lower() in PLACEHOLDERS:
        return "placeholder"
    if len(bare) >= MIN_REPEATS and len(set(bare)) == 1:
        return "one character repeated"
    words = WORD.findall(bare.lower())
    if len(words) >= MIN_REPEATS and len(set(words)) == 1:
        return "one word repeated"
    return None if LETTER.search(bare) else "no letters"


def _saved(text: str) -> float:
    """Share of a long row's bytes that compression saves; 0 for short rows, whose ratio means nothing."""
    row = text.encode("utf-8", "surrogatepass")
    return max(0.0, 1 - len(zlib.compress(row, 6)) / len(row)) if len(row) >= LONG_BYTES else 0.0
