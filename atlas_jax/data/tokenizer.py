"""Text to tokens and back: raw bytes, a byte-level BPE trained on the spot, or the user's own tokenizer.json."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import tokenizers
from jaxtyping import Int

# A forked child has lost the library's threads: told to use them (the variable set to true), it would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: os.environ.update(TOKENIZERS_PARALLELISM="false"))

EOS = "<eos>"
EOS_NAMES = (EOS, "</s>", "<|endoftext|>", "[SEP]")


@runtime_checkable
class Tokenizer(Protocol):
    """What models and reports need of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        ...

    @property
    def eos(self) -> int:
        """Id of the token that ends a document; text never encodes to it."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, " t"]]:
        """int32 ids of each text, without special tokens."""
        ...

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " t"]) -> str:
        """Text of the ids; special tokens stand for nothing, broken UTF-8 becomes U+FFFD."""
        ...

    def byte_lengths(self) -> Int[np.ndarray, " vocab"]:
        """int32: UTF-8 bytes of text each token stands for, 0 for special ones; turns bits a token into bits a byte."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 of the serialised form: equal for tokenizers that encode equally."""
        ...

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the serialised form as JSON; `load_tokenizer` reads it."""
        ...


class ByteTokenizer:
    """The 256 bytes of UTF-8, and `eos`: nothing to train, nothing to save but its name."""

    vocab_size = 257
    eos = 256
    _serialised = json.dumps({"type": "bytes", "eos": 256})

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, " t"]]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " t"]) -> str:
        return bytes(int(i) for i in ids if i != self.eos).decode(errors="replace")

    def byte_lengths(self) -> Int[np.ndarray, " vocab"]:
        return np.array([1] * 256 + [0], np.int32)

    def fingerprint(self) -> str:
        return hashlib.sha256(self._serialised.encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        Path(path).write_text(self._serialised, encoding="utf-8")


class TrainedTokenizer:
    """A Hugging Face tokenizer with an end of text, and without truncation, padding or special tokens in its output."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        """Args: the tokenizer, which is changed in place.

        Raises:
          ValueError: none of `EOS_NAMES` is in its vocabulary.
        """
        found = [token for token in (inner.token_to_id(name) for name in EOS_NAMES) if token is not None]
        if not found:
            raise ValueError(f"tokenizer: needs a token that ends a document, one of {', '.join(EOS_NAMES)}")
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # "<eos>" in a user's text is text: data must not end documents
        self._inner = inner
        self.eos: int = found[0]
        self.vocab_size: int = max(inner.get_vocab(with_added_tokens=True).values()) + 1

    def encode_batch(self, texts: Sequence[str]) -> list[Int[np.ndarray, " t"]]:
        encoded = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(e.ids, np.int32) for e in encoded]

    def decode(self, ids: Sequence[int] | Int[np.ndarray, " t"]) -> str:
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=True)

    def byte_lengths(self) -> Int[np.ndarray, " vocab"]:
        layout = json.loads(self._inner.to_str())
        added = {
            token["id"]: 0 if token["special"] else len(token["content"].encode()) for token in layout["added_tokens"]
        }
        byte_level = "ByteLevel" in json.dumps([layout["pre_tokenizer"], layout["decoder"]])
        lengths = np.zeros(self.vocab_size, np.int32)
        for token, index in self._inner.get_vocab(with_added_tokens=True).items():
            lengths[index] = added[index] if index in added else _byte_length(token, byte_level)
        return lengths

    def fingerprint(self) -> str:
        return hashlib.sha256(self._inner.to_str().encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        Path(path).write_text(self._inner.to_str(), encoding="utf-8")


def train_bpe(texts: Iterable[str], vocab_size: int) -> TrainedTokenizer:
    """Trains a byte-level BPE: any text round-trips, and equal texts give an equal tokenizer.

    Args:
      texts: training sample; a few megabytes are enough for a vocabulary of thousands.
      vocab_size: at most this many tokens, at least 257: `<eos>` (id 0), the 256 bytes, then merges.

    Raises:
      ValueError: vocab_size below 257.

    Source: Sennrich et al. 2016, on the bytes of Radford et al. 2019 (GPT-2).
    """
    if vocab_size < 257:
        raise ValueError(f"train_bpe: vocab_size={vocab_size}, expected at least 257 (256 bytes and {EOS})")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return TrainedTokenizer(inner)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Reads a `tokenizer.json` of Hugging Face's `tokenizers`, or what `save` wrote.

    Raises:
      ValueError: the file cannot be read, is no tokenizer, or has no token that ends a document.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"tokenizer {path}: cannot be read: {error}") from error
    if text == ByteTokenizer._serialised:
        return ByteTokenizer()
    try:
        inner = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises the bare class, whatever is wrong
        raise ValueError(f"tokenizer {path}: not a tokenizer.json of the tokenizers library: {error}") from error
    try:
        return TrainedTokenizer(inner)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _byte_length(token: str, byte_level: bool) -> int:
    if byte_level:
        return len(token)  # one printable character stands for one byte
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return 1  # byte fallback of SentencePiece
    return len(token.removeprefix("##").replace("▁", " ").encode())
