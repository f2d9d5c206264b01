"""Streams whose running state is asked for at every position: parity of bits, and products of permutations of five things.

An example is int32 [2, t]: inputs, and the state after each of them. Any length can be asked for, so that what was learnt at
one length is measured at longer ones.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from jaxtyping import Int

PERMUTATIONS = np.array(list(permutations(range(5))))  # [120, 5], the identity first; p maps x to PERMUTATIONS[p, x]
PARITY_TOKENS, S5_TOKENS = 2, len(PERMUTATIONS)


def _products() -> Int[np.ndarray, "p p"]:
    """Index of p after q, p in the rows: x goes to p(q(x))."""
    place = 5 ** np.arange(5)
    index = np.zeros(5**5, np.int64)
    index[PERMUTATIONS @ place] = np.arange(len(PERMUTATIONS))
    return index[PERMUTATIONS[:, PERMUTATIONS] @ place]


PRODUCTS = _products()


def parity(count: int, length: int, *, seed: int) -> Int[np.ndarray, "n 2 t"]:
    """Random bits; asked for is whether the number of ones so far is odd. A guess is right half the time.

    The simplest state that never fades: a linear recurrence keeps it only with an eigenvalue of -1.

    Args:
      count: examples.
      length: tokens of each, 0 or 1.
      seed: equal arguments give equal examples.

    Source: Grazzi et al. 2025, Unlocking state-tracking in linear RNNs through negative eigenvalues, arXiv:2411.12537, where
    models trained on short streams are measured on longer ones, as here.
    """
    bits = np.random.default_rng((seed, length)).integers(0, 2, (count, length))
    return np.stack([bits, np.cumsum(bits, axis=1) % 2], axis=1).astype(np.int32)


def s5(count: int, length: int, *, seed: int) -> Int[np.ndarray, "n 2 t"]:
    """Random permutations of five things, one a token; asked for is what all of them so far, one after the other, make.

    The group is not solvable: a fixed number of layers of attention, or of linear recurrences with diagonal matrices, follows it
    only up to some length (unless TC0 = NC1), while one non-linear recurrence does for good. A guess is right once in 120.

    Args:
      count: examples.
      length: tokens of each, indices into `PERMUTATIONS`; the state is one as well.
      seed: equal arguments give equal examples.

    Source: Merrill et al. 2024, The illusion of state in state-space models, arXiv:2404.08819.
    """
    moves = np.random.default_rng((seed, length)).integers(0, len(PERMUTATIONS), (count, length))
    states, state = np.empty_like(moves), np.zeros(count, np.int64)
    for t in range(length):
        state = PRODUCTS[moves[:, t], state]
        states[:, t] = state
    return np.stack([moves, states], axis=1).astype(np.int32)
