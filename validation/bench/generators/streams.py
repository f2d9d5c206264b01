"""Documents from many token streams that are drawn in step, without a preference for short ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

STREAMS = 256  # drawn side by side
BLOCK = 64  # tokens of every stream between two looks at what is finished
LONGEST = 1024  # tokens of a document, however long those were that the generator has learnt from

# Every call draws the next tokens of all streams; all start at the beginning of a document.
Draw = Callable[[], Int[np.ndarray, "t s"]]


def check_generation(
    documents: Sequence[Int[np.ndarray, " _"]], *, vocab_size: int, eos: int, tokens: int, top_k: int | None
) -> list[Int[np.ndarray, " _"]]:
    """The documents that have a token.

    Raises:
      ValueError: there is none, one has a token outside the vocabulary or `eos` in it, or a number is out of its range.
    """
    if not 0 <= eos < vocab_size:
        raise ValueError(f"eos is {eos}, expected 0 to vocab_size - 1 = {vocab_size - 1}")
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}, expected at least 1")
    if top_k is not None and not 1 <= top_k <= vocab_size:
        raise ValueError(f"top_k is {top_k}, expected 1 to vocab_size = {vocab_size}, or None")
    found = [document for document in documents if len(document)]
    if not found:
        raise ValueError(f"documents: {len(documents)}, none with a token; expected at least one to learn from")
    everything = np.concatenate(found)
    if everything.min() < 0 or everything.max() >= vocab_size:
        raise ValueError(
            f"documents have tokens from {everything.min()} to {everything.max()}, expected 0 to {vocab_size - 1}"
        )
    if (everything == eos).any():
        raise ValueError(f"documents have eos = {eos} among their tokens, expected it at no place: it ends a document")
    return found


def longest_document(documents: Sequence[Int[np.ndarray, " _"]]) -> int:
    """Tokens after which a generated document is cut: four times the longest that was learnt from, at most `LONGEST`.

    Without a limit a likeliest-token loop, which collapsed generators fall into, would never end. A limit at the longest itself
    would shorten documents from one generation to the next: an end that comes with the same probability after every token leaves
    lengths far apart (rows of 182 tokens on average and 268 at most came back as 146).
    """
    return min(4 * max(len(document) for document in documents), LONGEST)


def collect(draw: Draw, *, tokens: int, eos: int) -> list[Int[np.ndarray, " _"]]:
    """Draws until the documents that began first hold `tokens` tokens, one eos each included.

    Documents are taken in the order in which they began, and drawing goes on until the last of them is finished. Taking
    what is finished first would favour short documents; which one begins next is known before its length is, so that
    this order does not (Wald's identity: as a stopping rule of a sequence of independent documents).

    Args:
      draw: gives the next tokens of all streams. Each document must end at some time.
      tokens: to reach, with the last document and not before.
      eos: ends a document; empty documents are left out and count nothing.
    """
    blocks: list[np.ndarray] = []
    while True:
        blocks.append(draw())
        if sum(block.size for block in blocks) >= tokens:
            documents = _first_documents(np.concatenate(blocks), tokens, eos)
            if documents is not None:
                return documents


def _first_documents(drawn: Int[np.ndarray, "t s"], tokens: int, eos: int) -> list[Int[np.ndarray, " _"]] | None:
    """The documents in order of their start until `tokens` are reached; None where one of them is not finished yet."""
    time, streams = drawn.shape
    # Stream after stream, each with a mark at its end that closes the document that is still being written.
    marked = np.concatenate([drawn.T, np.full((streams, 1), eos, drawn.dtype)], axis=1)
    flat = marked.reshape(-1)
    ends = np.flatnonzero(flat == eos)
    starts = np.concatenate([[0], ends[:-1] + 1])
    unfinished = ends % (time + 1) == time
    written = unfinished | (ends > starts)
    ends, starts, unfinished = ends[written], starts[written], unfinished[written]

    order = np.lexsort((starts, starts % (time + 1)))
    reached = np.cumsum((ends - starts + 1)[order])
    # An unfinished document counts what it has so far, so that it is reached no later than it will be when finished.
    needed = int(np.searchsorted(reached, tokens)) + 1
    chosen = order[:needed]
    if needed > len(order) or unfinished[chosen].any():
        return None
    return [flat[start:end].copy() for start, end in zip(starts[chosen], ends[chosen], strict=True)]
