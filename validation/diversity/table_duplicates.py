"""Duplicates among more rows than fit into memory: what `find_duplicates` does, with its arrays in a working folder.

Stages: read (hashes of rows, and their normalised text), exact copies, signatures, near duplicates. A complete stage is not
done again, and the two long ones go on from where they were. On disk are 12 bytes a row for its number, 17 for hashes and 16
for the result; for near duplicates also the text, 8 bytes for each band and 48 for a sketch. Pairs are compared by the text
itself: no result depends on the memory allowed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int, UInt8
from numpy.lib.stride_tricks import sliding_window_view

from validation.diversity.components import READ_ROWS, find_copies, join_band, roots
from validation.diversity.duplicates import check_threshold
from validation.diversity.minhash import SKETCHED, Signatures, bands, may_agree, signatures
from validation.diversity.row_hashes import hash_rows
from validation.diversity.shingles import similarities
from validation.diversity.texts import Texts, blocks_of, hash_texts, normalise, ranges
from validation.diversity.workspace import Workspace, touchable

ROOTED_ROWS = READ_ROWS >> 4  # rows whose components, anywhere in their file, are looked at together
PIECE_BYTES = 2 << 20  # of text that is normalised at a time
PAIRS = 1 << 14  # that are looked at together
RELEASED_BLOCKS = 8

Given = TypeVar("Given")
Result = TypeVar("Result")
Progress = Callable[[str, int, int | None], None]
"""Told the stage, what is done of it, and the whole where that is known."""


@dataclass(frozen=True)
class DuplicateSearch:
    """What to look for and what it may take.

    Attributes:
      near: rows that are alike, not only copies; rows are then compared as text, their columns one after the other.
      threshold: Jaccard similarity of shingle sets from which two rows are near duplicates, in (0, 1].
      memory_bytes: about what the process may take; from 256 MB up this holds.
      workers: threads.
      seed: of the MinHash permutations.
    """

    near: bool = False
    threshold: float = 0.8
    memory_bytes: int = 500_000_000
    workers: int = os.cpu_count() or 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if self.memory_bytes < 1 << 26:
            raise ValueError(f"memory_bytes: {self.memory_bytes}; expected at least {1 << 26}")
        if self.workers < 1:
            raise ValueError(f"workers: {self.workers}; expected at least 1")

    def sorting(self) -> int:
        """Bytes that one sort may take."""
        return self.memory_bytes // 4

    def mapping(self) -> int:
        """Bytes that pages of files may take while rows here and there are looked at."""
        return self.memory_bytes // 10

    def facts(self) -> dict[str, Any]:
        """What the arrays in the working folder depend on."""
        return {"near": self.near, "threshold": self.threshold, "seed": self.seed, "format": 2}


class Found(NamedTuple):
    """What a search found, as counts.

    Attributes:
      rows: all rows.
      empty: rows that hold nothing; never duplicates.
      copies: rows that repeat an earlier one exactly.
      near: further rows that are alike to another one, the first of their component not among them.
      components: groups of rows of which one would do.
      compared: pairs whose similarity was measured.
    """

    rows: int
    empty: int
    copies: int
    near: int
    components: int
    compared: int


class _Read(NamedTuple):
    """A chunk after its thread: ids, hashes, which rows are empty, and the text where it is kept."""

    file: int
    row: np.ndarray
    lanes: np.ndarray
    empty: np.ndarray
    texts: Texts | None


def find_table_duplicates(
    chunks: Callable[[], Iterable[tuple[int, np.ndarray, pa.RecordBatch]]],
    search: DuplicateSearch,
    workspace: Workspace,
    progress: Progress = lambda stage, done, whole: None,
) -> Found:
    """Finds duplicates in a stream of rows; `components` then tells them.

    Args:
      chunks: starts the stream: number of the file, row numbers in it and the columns to compare, chunk by chunk.
      search: what to look for.
      workspace: where the arrays are; of an earlier, interrupted search whatever is complete is used.
      progress: told how far it is.

    Returns:
      The counts.

    Raises:
      WorkspaceError: the disk is full.
    """
    done = workspace.done
    if "read" not in done:
        _read(chunks(), search, workspace, progress)
    rows = done["read"]
    if "exact" not in done:
        _exact(rows, search, workspace, progress)
    if search.near and done.get("signed", -1) < rows:
        _sign(rows, search, workspace, progress)
    if search.near and "near" not in done:
        _near(rows, search, workspace, progress)
    if "groups" not in done:
        _groups(rows, search, workspace)
    names = ("empty", "copies", "near_rows", "components", "compared")
    return Found(rows, *(done.get(name, 0) for name in names))


def _read(
    chunks: Iterable[tuple[int, np.ndarray, pa.RecordBatch]],
    search: DuplicateSearch,
    workspace: Workspace,
    progress: Progress,
) -> None:
    """Hashes of all rows, and their text where it is needed."""
    try:
        with ExitStack() as stack:
            names = ("file", "row", "lane0", "lane1", "empty", "text", "offsets")
            files = {name: stack.enter_context(workspace.append(name)) for name in names}
            rows, empty = _read_into(files, chunks, search, progress)
    except OSError as error:
        raise workspace.full(error) from error
    workspace.done["empty"] = empty
    workspace.finish("read", rows)


def _read_into(
    files: Mapping[str, BinaryIO],
    chunks: Iterable[tuple[int, np.ndarray, pa.RecordBatch]],
    search: DuplicateSearch,
    progress: Progress,
) -> tuple[int, int]:
    """Writes what is kept of every row; returns the number of rows and of those that are empty."""
    rows = empty = size = 0
    files["offsets"].write(np.zeros(1, np.int64).tobytes())
    given = _pieces(chunks) if search.near else chunks
    for read in _in_order(partial(_hashed, near=search.near), given, search.workers):
        count = read.row.size
        rows, empty = rows + count, empty + int(read.empty.sum())
        files["file"].write(np.full(count, read.file, np.int32).tobytes())
        files["row"].write(read.row.astype(np.int64).tobytes())
        files["lane0"].write(read.lanes[0].tobytes())
        files["lane1"].write(read.lanes[1].tobytes())
        files["empty"].write(read.empty.tobytes())
        if read.texts is not None:
            files["text"].write(read.texts.data.tobytes())
            files["offsets"].write((read.texts.offsets[1:] + size).tobytes())
            size += read.texts.data.size
        progress("reading", rows, None)
    return rows, empty


def _pieces(
    chunks: Iterable[tuple[int, np.ndarray, pa.RecordBatch]],
) -> Iterator[tuple[int, np.ndarray, pa.RecordBatch]]:
    """The same rows in smaller chunks: what is made of a text while it is normalised is many times as large."""
    for file, row, batch in chunks:
        step = max(1, batch.num_rows * PIECE_BYTES // max(1, batch.nbytes))
        for begin in range(0, batch.num_rows, step):
            yield file, row[begin : begin + step], batch.slice(begin, step)


def _in_order(work: Callable[[Given], Result], chunks: Iterable[Given], workers: int) -> Iterator[Result]:
    """Results of work on chunks in their order, with a few of them ahead."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for chunk in chunks:
                ahead.append(pool.submit(work, chunk))
                if len(ahead) > workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _hashed(chunk: tuple[int, np.ndarray, pa.RecordBatch], near: bool) -> _Read:
    file, row, batch = chunk
    if not near:
        return _Read(file, row, *hash_rows(batch), None)
    texts = normalise(_text(batch))
    return _Read(file, row, hash_texts(texts), texts.lengths() == 0, texts)


def _text(batch: pa.RecordBatch) -> pa.Array:
    """All columns of a row as one text."""
    columns = [column.cast(pa.large_string()) for column in batch.columns]
    if len(columns) == 1:
        return columns[0]
    filled = [column.fill_null("") for column in columns]
    return pc.call_function("binary_join_element_wise", [*filled, pa.scalar(" ", pa.large_string())])


def _exact(rows: int, search: DuplicateSearch, workspace: Workspace, progress: Progress) -> None:
    """The first row of equal content for every row."""
    progress("exact copies", 0, None)
    first = workspace.create("first", np.int64, (rows,))
    low, high = (workspace.open(f"lane{lane}", np.uint64, (rows,)) for lane in (0, 1))
    wanted = ~workspace.read("empty", np.bool_, 0, rows)
    workspace.done["copies"] = find_copies((low, high), wanted, first, search.sorting(), workspace.release)
    workspace.finish("exact", rows)
    workspace.release()


def _distinct(workspace: Workspace, begin: int, end: int) -> Bool[np.ndarray, " n"]:
    """Rows with content that no earlier one has."""
    first = workspace.read("first", np.int64, begin, end)
    return (first == np.arange(begin, end)) & ~workspace.read("empty", np.bool_, begin, end)


def _sign(rows: int, search: DuplicateSearch, workspace: Workspace, progress: Progress) -> None:
    """Band keys and sketches of all distinct rows."""
    done = workspace.done.get("signed", 0)
    array = workspace.open if done else workspace.create
    keys = array("keys", np.uint64, (bands(search.threshold)[0], rows))
    sketches = array("sketches", np.uint64, (rows, SKETCHED // 8))
    work = partial(_signed, search=search, workspace=workspace)
    for number, (begin, end, found) in enumerate(_in_order(work, _blocks(workspace, done, rows), search.workers), 1):
        keys[:, begin:end], sketches[begin:end] = found
        progress("signatures", end, rows)
        workspace.reached("signed", end)
        if number % RELEASED_BLOCKS == 0:
            workspace.release()
    workspace.finish("signed", rows)
    workspace.release()


def _blocks(workspace: Workspace, begin: int, rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose text is about a mebibyte long."""
    while begin < rows:
        end = min(begin + READ_ROWS, rows)
        offsets = workspace.read("offsets", np.int64, begin, end + 1)
        texts = Texts(np.empty(0, np.uint8), offsets)
        for block in texts.blocks(np.arange(end - begin)):
            yield begin + int(block[0]), begin + int(block[-1]) + 1
        begin = end


def _signed(block: tuple[int, int], search: DuplicateSearch, workspace: Workspace) -> tuple[int, int, Signatures]:
    """Signatures of one block; those of rows that are not distinct stay 0."""
    begin, end = block
    offsets = workspace.read("offsets", np.int64, begin, end + 1)
    data = workspace.read("text", np.uint8, int(offsets[0]), int(offsets[-1]))
    rows = np.flatnonzero(_distinct(workspace, begin, end))
    keys = np.zeros((bands(search.threshold)[0], end - begin), np.uint64)
    sketches = np.zeros((end - begin, SKETCHED // 8), np.uint64)
    if rows.size:
        texts = Texts(data, offsets - offsets[0]).take(rows)
        keys[:, rows], sketches[rows] = signatures(texts, search.threshold, search.seed)
    return begin, end, Signatures(keys, sketches)


def _near(rows: int, search: DuplicateSearch, workspace: Workspace, progress: Progress) -> None:
    """Components of distinct rows that are alike, band by band."""
    begun = workspace.done.get("joined", 0)
    if begun:
        parent = workspace.open("parent", np.int64, (rows,))
    else:
        parent = workspace.create("parent", np.int64, (rows,))
        for begin in range(0, rows, READ_ROWS):
            end = min(begin + READ_ROWS, rows)
            parent[begin:end] = np.arange(begin, end)
    wanted = np.zeros(rows, bool)
    for begin in range(0, rows, READ_ROWS):
        end = min(begin + READ_ROWS, rows)
        wanted[begin:end] = _distinct(workspace, begin, end)
    keys = workspace.open("keys", np.uint64, (bands(search.threshold)[0], rows))

    sketches = workspace.open("sketches", np.uint64, (rows, SKETCHED // 8))

    def similar(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        found = np.zeros(left.size, bool)
        for begin in range(0, left.size, PAIRS):
            part = slice(begin, begin + PAIRS)
            rows, place = np.unique(np.stack([left[part], right[part]]), return_inverse=True)
            kept = workspace.take(sketches, rows, search.mapping())
            found[part] = may_agree(kept, place[0], place[1], search.threshold)
        found[found] = similarities_of(workspace, search, left[found], right[found]) >= search.threshold
        return found

    for number in range(begun, keys.shape[0]):
        progress("near duplicates", number, keys.shape[0])
        compared, _ = join_band(parent, keys[number], similar, search.sorting(), wanted, workspace.release)
        workspace.done["compared"] = workspace.done.get("compared", 0) + compared
        workspace.reached("joined", number + 1)
        workspace.release()
    progress("near duplicates", keys.shape[0], keys.shape[0])
    workspace.finish("near", rows)


def similarities_of(
    workspace: Workspace, search: DuplicateSearch, left: Int[np.ndarray, " pairs"], right: Int[np.ndarray, " pairs"]
) -> Float[np.ndarray, " pairs"]:
    """Similarity of pairs of rows by their text, some of it in memory at a time."""
    offsets = workspace.open("offsets", np.int64, (workspace.done["read"] + 1,))
    text = workspace.open("text", np.uint8, (int(offsets[-1]),))
    out = np.zeros(left.size, np.float64)
    for begin in range(0, left.size, PAIRS):
        part = slice(begin, begin + PAIRS)
        rows, place = np.unique(np.stack([left[part], right[part]]), return_inverse=True)
        spans = workspace.take(sliding_window_view(offsets, 2), rows, search.mapping())
        sizes = (spans[:, 1] - spans[:, 0])[place].sum(axis=0)
        for block in blocks_of(sizes):
            chosen, ends = np.unique(place[:, block], return_inverse=True)
            texts = _texts_at(text, spans[chosen], workspace, touchable(search.mapping()))
            out[begin + block] = similarities(texts, ends[0], ends[1])
    return out


def _texts_at(
    text: UInt8[np.ndarray, " bytes"], spans: Int[np.ndarray, "n 2"], workspace: Workspace, at_once: int
) -> Texts:
    """Texts from here and there in a mapped file, with the pages of a few in memory at a time."""
    lengths = spans[:, 1] - spans[:, 0]
    parts = []
    for begin in range(0, len(spans), at_once):
        part = slice(begin, begin + at_once)
        parts.append(text[ranges(spans[part, 0], lengths[part])])
        workspace.release()
    return Texts(np.concatenate(parts), np.append(0, np.cumsum(lengths)))


def _groups(rows: int, search: DuplicateSearch, workspace: Workspace) -> None:
    """The first row of the component of every row, and the counts."""
    first = workspace.open("first", np.int64, (rows,))
    parent = workspace.open("parent", np.int64, (rows,)) if search.near else first
    group = workspace.create("group", np.int64, (rows,))
    heads = np.zeros(rows, bool)
    near = 0
    for begin in range(0, rows, ROOTED_ROWS):
        part = slice(begin, min(begin + ROOTED_ROWS, rows))
        found, own = roots(parent, first[part]), np.arange(part.start, part.stop)
        group[part] = found
        heads[found[found != own]] = True
        near += int(((found != own) & (first[part] == own)).sum())
        workspace.release()
    workspace.done |= {"near_rows": near, "components": int(heads.sum())}
    workspace.finish("groups", rows)
