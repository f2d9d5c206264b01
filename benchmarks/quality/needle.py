"""Needles in a haystack, token by token: a few tokens hidden in a long text, and asked for at its end.

A needle is a mark, its key and its value. The question is the mark and the key once more, then the value follows; asked for
are the tokens of the value and nothing else, each with those before it given. More needles than one may be asked for, one after
the other, to train on: a single question a text is learned from very slowly.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def needles(
    haystack: Int[np.ndarray, " s"],
    count: int,
    length: int,
    depth: float | None,
    vocab_size: int,
    *,
    seed: int,
    key: int = 1,
    value: int = 2,
    distractors: int = 3,
    questions: int = 1,
) -> Int[np.ndarray, "n 2 t"]:
    """Stretches of the haystack with the needle that is asked for at one depth, and others, of other keys, anywhere.

    Without the others the mark alone would be the answer's place, and no key would have to be kept with its value. Keys and
    values are random tokens of the haystack's vocabulary, so only the mark tells a needle from hay.

    Args:
      haystack: tokens 0 to vocab_size - 1 of the text that models are trained on; each example takes a random stretch.
      count: examples.
      length: tokens of an example, question included.
      depth: of the needle, as a share of the hay before the question: 0 is the start, 1 right before the question. None draws it
        anew for every example, to train on: at one depth a model could learn a distance.
      vocab_size: of the haystack; the mark is the token `vocab_size`, so models need one more.
      seed: equal arguments give equal examples.
      key, value: tokens of each; no two needles of an example have the same first token of their keys.
      distractors: other needles.
      questions: needles asked for, at most all; the one at `depth` first.

    Returns:
      int32 inputs, and targets that are -1 except before each token of the value at the end.

    Raises:
      ValueError: depth is no share, the needles leave no hay, the haystack is shorter than the hay of one example, or the
        vocabulary than the needles.

    Source: Kamradt 2023 (needle in a haystack), here on tokens; with several needles it is the multi-key form of RULER (Hsieh
    et al. 2024, arXiv:2404.06654).
    """
    total = 1 + distractors
    one = 1 + key + value
    hay = length - total * one - (questions * one - 1)  # the last token of the last value is a target only
    if depth is not None and not 0 <= depth <= 1:
        raise ValueError(f"needles: depth is {depth}, expected 0 to 1 or None")
    if hay < 1:
        raise ValueError(f"needles: length is {length}, expected at least {length - hay + 1} for {total} needles")
    if len(haystack) < hay:
        raise ValueError(f"needles: haystack has {len(haystack)} tokens, expected at least {hay}")
    if vocab_size < total:
        raise ValueError(f"needles: vocab_size is {vocab_size}, expected at least {total}, one for each needle")
    rng = np.random.default_rng((seed, length, 0 if depth is None else 1 + round(1000 * depth)))
    mark = vocab_size
    examples = np.full((count, 2, length), -1, np.int32)
    for inputs, targets in examples:
        start = rng.integers(0, len(haystack) - hay + 1)
        hidden = np.concatenate(
            [
                np.full((total, 1), mark),
                rng.choice(vocab_size, (total, 1), replace=False),
                rng.integers(0, vocab_size, (total, key - 1 + value)),
            ],
            axis=1,
        )
        gaps = rng.integers(0, hay + 1, total)
        gaps[0] = gaps[0] if depth is None else round(depth * hay)
        body = np.insert(haystack[start : start + hay], np.repeat(gaps, one), hidden.ravel())
        asked = hidden[:questions].ravel()
        inputs[:] = np.concatenate([body, asked[:-1]])
        following = targets[len(body) - 1 :].reshape(
            questions, one
        )  # token i of a question is what follows token i - 1
        following[:, -value:] = hidden[:questions, -value:]
    return examples
