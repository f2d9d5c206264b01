"""Four of the six tasks of MAD: memorisation, compression, selective copying and fuzzy recall in the context.

An example is int32 [2, t]: inputs, and what is asked for at each of them, -1 where nothing is. The two tasks left out, plain and
noisy recall in the context, are close to `recall.associative_recall`.

Source: Poli et al. 2024, Mechanistic design and scaling of hybrid architectures, arXiv:2403.17844, its description of the
synthetic tasks; the paper's numbers below are those of its easiest setting.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

NOISE = 16  # tokens that selective copying has to ignore


def memorisation(count: int, facts: int, length: int, *, seed: int) -> Int[np.ndarray, "n 2 t"]:
    """Keys, each with a blank after it; asked for at the blank is the value that the key has in every example.

    Nothing in the context says it: the parameters have to. Values never stand among the inputs. In the paper the vocabulary has
    256 tokens and an example 32.

    Args:
      count: examples.
      facts: keys are the tokens below `facts`, values the next `facts` ones, the blank is 2 facts: 2 facts + 1 tokens in all.
      length: tokens of an example; even.
      seed: of the keys drawn; the map from keys to values depends on `facts` alone.

    Raises:
      ValueError: length is odd.
    """
    if length % 2:
        raise ValueError(f"memorisation: length is {length}, expected an even number")
    value_of = facts + np.random.default_rng((facts,)).permutation(facts)
    keys = np.random.default_rng((seed, facts)).integers(0, facts, (count, length // 2))
    inputs, targets = np.full((count, length), 2 * facts), np.full((count, length), -1)
    inputs[:, ::2], targets[:, 1::2] = keys, value_of[keys]
    return np.stack([inputs, targets], axis=1).astype(np.int32)


def compression(count: int, symbols: int, length: int, *, seed: int) -> Int[np.ndarray, "n 2 t"]:
    """Random symbols and one token at the end, whose activations must hold all of them: asked for is every symbol, at its place.

    Only for a model that reads its answers off the last token (`lineup.with_decoder`): to any other the target is the input. In
    the paper there are 16 symbols and 32 tokens.

    Args:
      count: examples.
      symbols: tokens below `symbols`; the last token is `symbols`: symbols + 1 in all.
      length: tokens of an example, the last one included.
      seed: equal arguments give equal examples.
    """
    inputs = np.random.default_rng((seed, symbols, length)).integers(0, symbols, (count, length))
    targets = inputs.copy()
    inputs[:, -1], targets[:, -1] = symbols, -1
    return np.stack([inputs, targets], axis=1).astype(np.int32)


def selective_copying(count: int, copied: int, length: int, symbols: int, *, seed: int) -> Int[np.ndarray, "n 2 t"]:
    """Symbols at random places among noise, then as many blanks; asked for at the blanks are the symbols, in their order.

    In the paper there are 16 symbols, 16 of them copied, and 256 tokens.

    Args:
      count: examples.
      copied: symbols in an example.
      length: tokens of an example, blanks included.
      symbols: tokens below `symbols`; noise are the `NOISE` next ones, the blank is the last: symbols + NOISE + 1 in all.
      seed: equal arguments give equal examples.

    Raises:
      ValueError: symbols and blanks do not fit the length.
    """
    if 2 * copied > length:
        raise ValueError(f"selective_copying: copied is {copied}, expected at most length / 2 = {length // 2}")
    rng, body = np.random.default_rng((seed, copied, length)), length - copied
    places = np.sort(rng.permuted(np.tile(np.arange(body), (count, 1)), axis=1)[:, :copied], axis=1)
    kept = rng.integers(0, symbols, (count, copied))
    inputs, targets = rng.integers(symbols, symbols + NOISE, (count, length)), np.full((count, length), -1)
    np.put_along_axis(inputs, places, kept, axis=1)
    inputs[:, body:], targets[:, body:] = symbols + NOISE, kept
    return np.stack([inputs, targets], axis=1).astype(np.int32)


def fuzzy_recall(
    count: int, widest: int, length: int, vocab_size: int, *, seed: int, pairs: int = 4
) -> Int[np.ndarray, "n 2 t"]:
    """Keys and values of several tokens, pair after pair; asked for is the value of every key that stood there before.

    Each example has pairs of its own: phrases of 1 to `widest` tokens, no key twice, drawn for as long as it takes to fill the
    length, each pair equally likely. The tokens of a value are asked for one by one, those before them given. In the paper
    phrases have up to 3 tokens, of a vocabulary of 16, and an example 128 tokens.

    Args:
      count: examples.
      widest: tokens of the longest phrase.
      length: tokens of an example.
      vocab_size: keys are made of the first half, values of the second.
      seed: equal arguments give equal examples.
      pairs: in an example; their number is ours.

    Raises:
      ValueError: there are fewer keys than pairs.
    """
    half = vocab_size // 2
    if half < pairs:
        raise ValueError(f"fuzzy_recall: vocab_size is {vocab_size}, expected at least 2 pairs = {2 * pairs}")
    rng = np.random.default_rng((seed, widest, length))
    examples = np.empty((count, 2, length), np.int32)
    for example in examples:
        keys: list[tuple[int, ...]] = []
        while len(keys) < pairs:
            key = _phrase(rng, 0, half, widest)
            keys += [key] if key not in keys else []
        example[:] = _stream(rng, keys, [_phrase(rng, half, vocab_size, widest) for _ in keys], length)
    return examples


def _phrase(rng: np.random.Generator, low: int, high: int, widest: int) -> tuple[int, ...]:
    return tuple(rng.integers(low, high, rng.integers(1, widest + 1)).tolist())


def _stream(
    rng: np.random.Generator, keys: list[tuple[int, ...]], values: list[tuple[int, ...]], length: int
) -> Int[np.ndarray, "2 t"]:
    """Random pairs until the length is reached, cut there, and the tokens asked for."""
    tokens: list[int] = []
    asked: list[int] = []  # what is asked for at each token
    seen: set[int] = set()
    while len(tokens) < length:
        pair = int(rng.integers(len(keys)))
        key, value = keys[pair], values[pair]
        tokens += [*key, *value]
        answer = value if pair in seen else [-1] * len(value)
        asked += [*[-1] * (len(key) - 1), *answer, -1]
        seen.add(pair)
    return np.array([tokens[:length], asked[:length]])
