"""Texts that language models are compared on, each in three parts: to train on, to tune on, to report on."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from atlas_jax.data import Tokenizer, pack, train_bpe
from benchmarks.quality.data import data_folder
from validation.datasets.standard_library import EXCLUDED, standard_library_rows

CORPORA = ("wikitext-2", "tinyshakespeare", "library-code", "library-documentation")
CODE_BYTES = 3_000_000
TABLES = frozenset(("encodings", "pydoc_data"))  # folders of the standard library that hold data, not code
BLOCKS = 50  # of a corpus of many documents; of ten in a row one is validation and one test


class Corpus(NamedTuple):
    """Documents of the three parts."""

    train: list[str]
    validation: list[str]
    test: list[str]

    def fingerprint(self) -> str:
        """First 12 digits of the SHA-256 of all text: the standard library differs between versions of Python."""
        digest = hashlib.sha256()
        for part in self:
            for document in part:
                digest.update(document.encode() + b"\0")
            digest.update(b"\1")
        return digest.hexdigest()[:12]


class Encoded(NamedTuple):
    """A corpus as windows, with the tokenizer that was trained on its training part.

    The parts are int32 [n, 2, t]: inputs and targets; a target of -1 does not count.
    """

    tokenizer: Tokenizer
    train: Int[np.ndarray, "n 2 t"]
    validation: Int[np.ndarray, "n 2 t"]
    test: Int[np.ndarray, "n 2 t"]


def read_corpus(name: str, data: Path | None) -> Corpus:
    """Reads a corpus.

    Args:
      name: one of `CORPORA`.
      data: folder of the development data sets, for those that do not come with Python.

    Raises:
      FileNotFoundError: the corpus needs a file of that folder which is not there.
      ValueError: there is no such corpus.
    """
    match name:
        case "wikitext-2":
            train, validation = _cut(_text(data, "text_wikitext2", "valid.txt"), 0.9)
            return Corpus([train], [validation], [_text(data, "text_wikitext2", "test.txt")])
        case "tinyshakespeare":
            train, rest = _cut(_text(data, "text_tinyshakespeare", "input.txt"), 0.8)
            validation, test = _cut(rest, 0.5)
            return Corpus([train], [validation], [test])
        case "library-code":
            return deal(list(_modules(CODE_BYTES)))
        case "library-documentation":
            return deal(standard_library_rows())
    raise ValueError(f"corpus is {name!r}, expected one of {', '.join(CORPORA)}")


def available_corpora(names: Sequence[str], given: Path | None) -> Iterator[tuple[str, Corpus]]:
    """Those of the corpora whose files are there, with their names; of the others it says that they are skipped.

    Args:
      names: of `CORPORA`.
      given: folder of the development data sets, see `data_folder`.
    """
    folder = data_folder(given)
    for name in names:
        try:
            yield name, read_corpus(name, folder)
        except FileNotFoundError as missing:
            print(f"skipped {name}: {missing}; give --data or set ATLAS_DEV_DATA", file=sys.stderr, flush=True)


def _text(data: Path | None, folder: str, file: str) -> str:
    if data is None:
        raise FileNotFoundError(f"{folder}/{file}: no folder of data sets was given")
    return (data / folder / file).read_text(encoding="utf-8")


def _cut(text: str, share: float) -> tuple[str, str]:
    """In two at the first end of a line after that share of the characters."""
    place = text.index("\n", int(len(text) * share)) + 1
    return text[:place], text[place:]


def _modules(most: int) -> Iterator[str]:
    """Source files of the running Python's standard library in the order of their paths, up to `most` bytes of text."""
    root, total = Path(sysconfig.get_path("stdlib")), 0
    names: list[Path] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in EXCLUDED | TABLES]
        names += [Path(folder) / file for file in files if file.endswith(".py")]
    for path in sorted(names):
        text = path.read_bytes().decode("utf-8", errors="replace")
        total += len(text.encode())
        if total > most:
            return
        yield text


def deal(documents: Sequence[str]) -> Corpus:
    """Cuts many documents into contiguous blocks of about equal size and deals the blocks to the parts, 8 : 1 : 1.

    Neighbours resemble one another (one module's docstrings, one package's files), so they stay together; all regions
    of the corpus stand in every part.
    """
    ends = np.cumsum([len(document.encode()) for document in documents])
    parts = Corpus([], [], [])
    for document, end in zip(documents, ends, strict=True):
        place = int((end - 1) * BLOCKS // ends[-1]) % 10
        (parts.validation if place == 4 else parts.test if place == 9 else parts.train).append(document)
    return parts


def encode(corpus: Corpus, *, vocab_size: int, length: int, windows: int) -> Encoded:
    """Trains a byte-pair encoding on the training part and cuts all parts into windows.

    Args:
      corpus: the text.
      vocab_size: of the encoding.
      length: targets per window.
      windows: at most so many of validation and of test, evenly spread over the part.
    """
    tokenizer = train_bpe(corpus.train, vocab_size)
    train, validation, test = (_windows(documents, tokenizer, length) for documents in corpus)
    return Encoded(tokenizer, train, _spread(validation, windows), _spread(test, windows))


def _windows(documents: list[str], tokenizer: Tokenizer, length: int) -> Int[np.ndarray, "n 2 t"]:
    packed = pack(
        tokenizer.encode_batch(documents), length=length, eos=tokenizer.eos, row_ids=np.arange(len(documents))
    )
    targets = np.where(packed.rows[:, 1:] >= 0, packed.tokens[:, 1:], -1)
    return np.stack([packed.tokens[:, :-1], targets], axis=1).astype(np.int32)


def _spread(windows: Int[np.ndarray, "n 2 t"], most: int) -> Int[np.ndarray, "m 2 t"]:
    if len(windows) <= most:
        return windows
    return windows[np.linspace(0, len(windows) - 1, most).astype(int)]


def count_bytes(tokenizer: Tokenizer, windows: Int[np.ndarray, "n 2 t"]) -> int:
    """UTF-8 bytes that the counted targets stand for."""
    targets = windows[:, 1]
    return int(tokenizer.byte_lengths()[targets[targets >= 0]].sum())
