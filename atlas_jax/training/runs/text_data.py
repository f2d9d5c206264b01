"""Text files, folders of them or shards of tokens, to windows of both parts; what is held out is never trained on."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from atlas_jax.data import ByteTokenizer, Tokenizer, load_tokenizer, train_bpe
from atlas_jax.training.runs.windows import Windows

TEXT_SUFFIXES = (
    ".txt",
    ".text",
    ".md",
    ".rst",
    ".py",
)  # read in folders; a file that is named is read whatever its suffix
SHARD_SUFFIXES = (".npy", ".bin")
FOREIGN = frozenset(
    ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data")
)
LIBRARY_BYTES = 3_000_000
HEADER_MAGIC, HEADER_BYTES = 20240520, 1024  # of the .bin shards of modded-nanogpt


class DataError(ValueError):
    """What was given cannot be trained on; the message names the file and what was expected."""


class Source(NamedTuple):
    """One file: its text, or its tokens; and the SHA-256 of either, by which copies are known."""

    name: str
    content: str | np.ndarray
    digest: str


class Split(NamedTuple):
    """The two parts, which share nothing: no file and no copy of one, or no position.

    Attributes:
      train, held_out: in the order of their names.
      fingerprint: SHA-256 of both.
      by: "file", "position" or "folder", how they were parted.
    """

    train: list[Source]
    held_out: list[Source]
    fingerprint: str
    by: str


class Tokens(NamedTuple):
    """What a run trains on and is measured on.

    Attributes:
      tokenizer: None for shards that came without one.
      vocabulary: number of tokens; every token is below it.
      train, held_out: their windows.
      train_tokens, held_out_tokens: how many tokens each part has.
    """

    tokenizer: Tokenizer | None
    vocabulary: int
    train: Windows
    held_out: Windows
    train_tokens: int
    held_out_tokens: int


def read(paths: Sequence[Path], share: float, held_out: Path | None = None) -> Split:
    """Reads all files and parts them.

    Many files (1 / share or more, none of which is most of the data) are held out whole, a few stretches of neighbours; of
    fewer the end of each is held out. Nothing stands on both sides: copies of a file stay together.

    Args:
      paths: text files, folders, or shards of tokens (.npy, .bin); none: the source of Python's standard library.
      share: of the bytes (tokens) to hold out, above 0 and below 1; of no meaning where `held_out` is given.
      held_out: a file or folder to hold out instead.

    Raises:
      DataError: a file is missing, empty, no text, or of another kind than the others; it is on both sides; or there is too
        little to part.
    """
    sources = [source for path in paths for source in _read(path)] if paths else list(_library())
    if held_out is not None:
        aside = list(_read(held_out))
        _one_kind([*sources, *aside])
        trained_on = {source.digest: source.name for source in sources}
        for source in aside:
            if source.digest in trained_on:
                raise DataError(
                    f"{source.name}: the same as {trained_on[source.digest]}, expected text that is not trained on"
                )
        return _parted(sources, aside, "folder")
    _one_kind(sources)
    dealt = _deal(sources, share)
    if dealt is not None:
        return _parted(*dealt, "file")
    train, aside = _cut_all(sources, share)
    if not train or not aside:
        kind = "characters" if isinstance(sources[0].content, str) else "tokens"
        raise DataError(
            f"{_names(sources)}: {sum(len(source.content) for source in sources):,} {kind} are too few to hold out {share:g} "
            "of them, expected some to train on and some to hold out; give more, or name --held-out-data"
        )
    return _parted(train, aside, "position")


def encode(split: Split, *, length: int, tokenizer: str | Tokenizer, vocabulary: int) -> Tokens:
    """Both parts as windows.

    Args:
      split: from `read`.
      length: targets per window.
      tokenizer: "bytes"; "bpe", trained on the training part; the path of a tokenizer.json; or a tokenizer. For shards
        only the last two say anything, of their vocabulary.
      vocabulary: of the encoding to train; of shards without a tokenizer, all of whose tokens must be below it.

    Raises:
      DataError: a part is shorter than one window, or a shard has tokens beyond the vocabulary.
      ValueError: the tokenizer cannot be read or trained.
    """
    parts = (split.train, split.held_out)
    if isinstance(split.train[0].content, str):
        known = _tokenizer(tokenizer, split.train, vocabulary)
        streams = [[_stream(known, part)] for part in parts]
        vocabulary = known.vocab_size
    else:
        known = None if tokenizer in ("bytes", "bpe") else _tokenizer(tokenizer, [], vocabulary)
        vocabulary = vocabulary if known is None else known.vocab_size
        for source in (source for part in parts for source in part):
            _check_range(source, vocabulary)
        streams = [[np.asarray(source.content) for source in part] for part in parts]
    train, held_out = (Windows(part, length) for part in streams)
    sizes = [sum(len(stream) for stream in part) for part in streams]
    named = _names([*split.train, *split.held_out])
    for what, windows, size in (("to train on", train, sizes[0]), ("held out", held_out, sizes[1])):
        if not len(windows):
            raise DataError(
                f"{named}: {size:,} tokens are {what}, expected at least {length + 1:,}, one window of {length:,} and "
                "its last target; give more text, a smaller --length or another --held-out"
            )
    return Tokens(known, vocabulary, train, held_out, *sizes)


def count_bytes(tokenizer: Tokenizer, windows: Int[np.ndarray, "n t_plus_1"]) -> int:
    """UTF-8 bytes that the targets of the windows stand for."""
    return int(tokenizer.byte_lengths()[windows[:, 1:]].sum())


def _tokenizer(asked: str | Tokenizer, train: Sequence[Source], vocabulary: int) -> Tokenizer:
    match asked:
        case "bytes":
            return ByteTokenizer()
        case "bpe":
            return train_bpe((str(source.content) for source in train), vocabulary)
        case str():
            return load_tokenizer(asked)
    return asked


def _stream(tokenizer: Tokenizer, part: Sequence[Source]) -> Int[np.ndarray, " n"]:
    """All texts as one stream, an end-of-text after each."""
    end = np.array([tokenizer.eos], np.int32)
    encoded = tokenizer.encode_batch([str(source.content) for source in part])
    return np.concatenate([piece for document in encoded for piece in (document, end)])


def _read(path: Path) -> Iterator[Source]:
    """The file, or the files of a folder in the order of their paths."""
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix in (*TEXT_SUFFIXES, *SHARD_SUFFIXES)
            and file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not files:
            raise DataError(f"{path}: no file in it ends in {', '.join((*TEXT_SUFFIXES, *SHARD_SUFFIXES))}")
    elif path.is_file():
        files = [path]
    else:
        raise DataError(f"{path}: no such file or folder")
    for file in files:
        yield _shard(file) if file.suffix in SHARD_SUFFIXES else _text(file)


def _text(file: Path) -> Source:
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not text in UTF-8: {error}") from error
    if not text:
        raise DataError(f"{file}: is empty, expected text")
    return _source(str(file), text)


def _shard(file: Path) -> Source:
    """Tokens mapped into memory; .bin is a bare row of little-endian uint16, as nanoGPT writes it, or one with a header."""
    size = file.stat().st_size
    if not size:
        raise DataError(f"{file}: is empty, expected tokens")
    if file.suffix == ".npy":
        try:
            tokens = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise DataError(f"{file}: not an array of NumPy: {error}") from error
        if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
            raise DataError(f"{file}: is {tokens.dtype}{list(tokens.shape)}, expected integers in one axis")
        if not len(tokens):
            raise DataError(f"{file}: has no token, expected some")
        return _source(str(file), tokens)
    if size % 2:
        raise DataError(
            f"{file}: has {size:,} bytes, expected an even number, two for each token (little-endian uint16)"
        )
    with file.open("rb") as opened:
        headed = int.from_bytes(opened.read(4), "little") == HEADER_MAGIC and size >= HEADER_BYTES
    if headed and size == HEADER_BYTES:
        raise DataError(f"{file}: has no token after its header, expected some")
    return _source(str(file), np.memmap(file, "<u2", mode="r", offset=HEADER_BYTES if headed else 0))


def _library() -> Iterator[Source]:
    """Source files of the running Python's standard library in the order of their paths, up to 3 MB of text."""
    root, total = Path(sysconfig.get_path("stdlib")), 0
    files: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in FOREIGN]
        files += [Path(folder) / name for name in names if name.endswith(".py")]
    for file in sorted(files):
        text = file.read_bytes().decode("utf-8", errors="replace")
        total += len(text.encode())
        if total > LIBRARY_BYTES:
            return
        if text:
            yield _source(str(file.relative_to(root)), text)


def _one_kind(sources: Sequence[Source]) -> None:
    first = sources[0]
    for source in sources:
        if isinstance(source.content, str) != isinstance(first.content, str):
            kinds = ["text" if isinstance(one.content, str) else "tokens" for one in (first, source)]
            raise DataError(f"{source.name}: is {kinds[1]} where {first.name} is {kinds[0]}, expected all of one kind")


def _deal(sources: Sequence[Source], share: float) -> tuple[list[Source], list[Source]] | None:
    """Whole files: those whose middle lies in one of a few stretches of bytes, evenly spread, that together have that share.

    Neighbours resemble one another, so they stay together. None where files are too few, or too unequal in size.
    """
    sizes: dict[str, int] = {}  # by content: copies stay together
    for source in sources:
        sizes.setdefault(source.digest, len(source.content))
    if len(sizes) < 1 / share:
        return None
    each = np.array(list(sizes.values()))
    middles = (np.cumsum(each) - each / 2) / each.sum()
    for stretches in (5, 4, 3, 2, 1):
        chosen = np.abs((middles * stretches) % 1 - 0.5) < share / 2
        found = each[chosen].sum() / each.sum()
        if 0.7 * share < found < 1.4 * share:
            aside = {digest for digest, is_chosen in zip(sizes, chosen, strict=True) if is_chosen}
            parts: tuple[list[Source], list[Source]] = ([], [])
            for source in sources:
                parts[source.digest in aside].append(source)
            return parts
    return None


def _cut_all(sources: Sequence[Source], share: float) -> tuple[list[Source], list[Source]]:
    """Of every content its end is held out; of copies, which would put one's end into the other's beginning, one is kept."""
    distinct = {source.digest: source for source in sources}
    cuts = [_cut(source, share) for source in distinct.values()]
    return [head for head, _ in cuts if len(head.content)], [end for _, end in cuts if len(end.content)]


def _cut(source: Source, share: float) -> tuple[Source, Source]:
    """In two, text at the end of a line where there is one nearby."""
    place = int(len(source.content) * (1 - share))
    if isinstance(source.content, str):
        line = source.content.find("\n", place, place + max(1, (len(source.content) - place) // 2))
        place = line + 1 if line >= 0 else place
    return _source(source.name, source.content[:place]), _source(source.name, source.content[place:])


def _parted(train: list[Source], held_out: list[Source], by: str) -> Split:
    digest = hashlib.sha256()
    for part in (train, held_out):
        digest.update("".join(source.digest for source in part).encode() + b"|")
    return Split(train, held_out, digest.hexdigest(), by)


def _source(name: str, content: str | np.ndarray) -> Source:
    data = content.encode() if isinstance(content, str) else np.ascontiguousarray(content).data
    return Source(name, content, hashlib.sha256(data).hexdigest())


def _check_range(source: Source, vocabulary: int) -> None:
    """Refuses tokens that the model has no embedding for: on a device they would silently be read as another's."""
    tokens = np.asarray(source.content)
    for name, found in (("smallest", int(tokens.min())), ("largest", int(tokens.max()))):
        if not 0 <= found < vocabulary:
            raise DataError(
                f"{source.name}: its {name} token is {found}, expected 0 to {vocabulary - 1}; name --tokenizer or --vocabulary"
            )


def _names(sources: Sequence[Source]) -> str:
    names = list(dict.fromkeys(source.name for source in sources))
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
