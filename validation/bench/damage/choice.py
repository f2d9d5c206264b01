"""Which rows are damaged: a prefix of one permutation, so that more damage at the same seed contains the lesser."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def checked_share(share: float, name: str = "share") -> float:
    """The share itself, where it is one.

    Args:
      share: to check.
      name: of the argument, for the message.

    Raises:
      ValueError: the share is outside 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"{name}: {share}; expected 0 to 1")
    return share


def chosen_rows(
    eligible: Int[np.ndarray, " eligible"], count: int, share: float, rng: np.random.Generator
) -> Int[np.ndarray, " chosen"]:
    """Rows to damage, in order: `share` of `count`, from the eligible ones as far as there are enough.

    Args:
      eligible: numbers of the rows that the damage can change.
      count: of all rows.
      share: of all rows, 0 to 1.
      rng: of the permutation.

    Raises:
      ValueError: the share is outside 0 to 1.
    """
    return np.sort(rng.permutation(eligible)[: round(checked_share(share) * count)])
