"""Windows of token streams, and the batches of a run: of windows, and of texts to learn needles from, by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from atlas_jax.data import Batches, Packed
from atlas_jax.training.needles.texts import Alphabet, alphabet, kinds_in, practice

KNOWN_FROM = 1 << 20  # tokens that are looked at to know which there are
_PRACTICE = 2  # of the random numbers of texts: no other part of a run has the same


class Windows:
    """Windows of `length + 1` tokens of some streams, at a stride of `length`, none over the end of a stream.

    Neighbours share one token (the last target of one is the first input of the next). A stream may be a file that is mapped
    into memory: only what is asked for is read. What a stream has left beyond its last whole window is left out, so that all
    windows count the same number of targets.
    """

    def __init__(self, streams: Sequence[np.ndarray], length: int) -> None:
        """Args: integer tokens [n] each, of any integer dtype; targets per window."""
        self._streams = [stream for stream in streams if len(stream) > length]
        self._views = [np.lib.stride_tricks.sliding_window_view(s, length + 1)[::length] for s in self._streams]
        self._ends = np.cumsum([len(view) for view in self._views], dtype=np.int64)
        self.length = length

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._views else 0

    def __getitem__(self, chosen: Int[np.ndarray, " b"]) -> Int[np.ndarray, "b t_plus_1"]:
        """Copies of the windows of those numbers, int32."""
        found = np.empty((len(chosen), self.length + 1), np.int32)
        of = np.searchsorted(self._ends, chosen, side="right")
        for stream in np.unique(of):
            first = self._ends[stream] - len(self._views[stream])
            found[of == stream] = self._views[stream][chosen[of == stream] - first]
        return found

    def spread(self, most: int) -> Int[np.ndarray, "n t_plus_1"]:
        """All windows, or so many at equal distances from the first to the last."""
        return self[np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(np.int64))]

    def longest(self, most: int) -> Int[np.ndarray, " n"]:
        """The first tokens of the longest stream, at most so many, int32."""
        return np.asarray(max(self._streams, key=len)[:most], np.int32)


def alphabet_of(windows: Windows) -> Alphabet:
    """What needles are made of for a model that trains on these windows; of much data a part is looked at.

    Raises:
      NeedleError: there are too few different tokens.
    """
    return alphabet(windows.spread(max(1, KNOWN_FROM // windows.length)))


class WindowBatches:
    """The batches of a run by position, in the order of `data.Batches`.

    A share of the windows, drawn by (seed, position, row), becomes texts to learn needles from: their hay is the window, so the
    order of the data stays, and no other data is read. Of such a text only the answers count, together as much as a whole window.
    """

    def __init__(self, windows: Windows, batch: int, seed: int, *, needles: float = 0.0) -> None:
        """Args: what to train on; windows per batch; seed of the order; share of windows to hide needles in.

        Raises:
          NeedleError: there are to be needles, and windows are too short or have too few different tokens.
        """
        nothing = np.empty((len(windows), 0), np.int32)  # `Batches` gives the order, the windows give the tokens
        self._windows, self._order = windows, Batches(Packed(nothing, nothing), batch, seed)
        self._seed, self._needles = seed, needles
        if needles > 0:
            self._known = alphabet_of(windows)
            kinds_in(windows.length + 1, self._known)

    def at(self, position: int) -> dict[str, Int[np.ndarray, "b t_plus_1"] | Float[np.ndarray, "b t"]]:
        """Batch number `position`, from 0: `tokens`, and where there are needles the `weights` of their targets, float32."""
        tokens = self._windows[self._order.indices(position)]
        if not self._needles:
            return {"tokens": tokens}
        weights = np.ones((len(tokens), self._windows.length), np.float32)
        for row, window in enumerate(tokens):
            rng = np.random.default_rng([_PRACTICE, self._seed, position, row])
            if rng.random() < self._needles:
                tokens[row], answers = practice(window, self._known, rng)
                weights[row] = answers[1:] / np.float32(answers[1:].mean())
        return {"tokens": tokens, "weights": weights}
