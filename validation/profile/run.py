"""One pass over a table, by as many processes as it has pieces and the machine has cores."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa

from validation.datasets import DatasetError, Part, Table
from validation.profile.rendered import rendered_schema
from validation.profile.sample import ROWS
from validation.profile.state import Profile, empty_profile

CHUNK_ROWS = 16_384
PEEK_ROWS = 2_000
GROUPS = 16
"""Runs of parts that are profiled on their own; few, since each is sent home and merged."""
WORTH_A_PROCESS = 32 << 20
"""Bytes of a table below which one process is faster than several, which take about a second to start."""

Progress = Callable[[int, int], None]
"""Told of the rows done and the rows there are, or are estimated to be."""


def profile(
    table: Table,
    *,
    workers: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    sample_rows: int = ROWS,
) -> Profile:
    """Profiles a table in one pass; the result does not depend on the number of workers.

    Args:
      table: see `open_table`.
      workers: processes; None takes one for each core, or none of them for a small table. From a script, call this
        below `if __name__ == "__main__":` where there are several, since processes are spawned.
      seed: decides which rows are sampled.
      progress: told of the rows done, a few times a second.
      sample_rows: rows to sample.

    Returns:
      The profile.

    Raises:
      DatasetError: a file or row cannot be read, or no row is left.
      ValueError: workers or sample_rows is less than 1.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers: {workers}; expected at least 1")
    if sample_rows < 1:
        raise ValueError(f"sample_rows: {sample_rows}; expected at least 1")
    start = _empty(table, seed, sample_rows)
    groups = _groups(table.parts())
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = 1 if table.metadata.bytes < WORTH_A_PROCESS else cores
    workers = min(workers, len(groups))
    total = table.metadata.rows
    if workers == 1:
        done = 0
        result = None
        for group in groups:
            one = Profile.of_state(*start)
            for rows in _read(one, table, group):
                done += rows
                if progress is not None:
                    progress(done, max(total, done))
            result = _joined(result, one)
    else:
        result = _in_processes(table, groups, start, workers, progress)
    if result is None or not result.rows:
        bad = (
            f"; the first bad row is row {result.bad_rows[0][1]}: {result.bad_rows[0][2]}"
            if result and result.skipped
            else ""
        )
        raise DatasetError(f"{table.metadata.path}: no rows to profile{bad}")
    return result


class _State(NamedTuple):
    """What `Profile.state` gives; it can be sent to another process."""

    words: dict[str, Any]
    arrays: dict[str, Any]
    sample: pa.Table


def _empty(table: Table, seed: int, sample_rows: int) -> _State:
    metadata = table.metadata
    source = {
        "path": metadata.path,
        "format": metadata.format,
        "kind": metadata.kind,
        "files": list(metadata.files),
        "bytes": metadata.bytes,
    }
    first = next(table.stream(PEEK_ROWS), None)
    if first is None:
        raise DatasetError(f"{metadata.path}: no rows to profile")
    schema = pa.schema(list(metadata.columns))
    rendered = rendered_schema(schema, first.data) if metadata.kind == "text" else None
    start = empty_profile(source, schema, first.data, seed=seed, sample_rows=sample_rows, rendered=rendered)
    return _State(*start.state())


def _groups(parts: Sequence[Part]) -> list[tuple[Part, ...]]:
    """At most `GROUPS` runs of parts of about equal length; the same for any number of workers."""
    count = min(GROUPS, len(parts))
    cuts = [len(parts) * place // count for place in range(count + 1)]
    return [tuple(parts[start:end]) for start, end in itertools.pairwise(cuts)]


def _read(one: Profile, table: Table, parts: Sequence[Part]) -> Iterator[int]:
    """Adds the rows of some parts; yields the number of rows of each chunk."""
    for chunk in table.stream(CHUNK_ROWS, parts=parts):
        one.add(chunk.file, chunk.row, chunk.data)
        yield len(chunk.row)
    one.add_skipped(table.skipped)


def _joined(before: Profile | None, after: Profile) -> Profile:
    if before is None:
        return after
    before.absorb(after)
    return before


class _Worker(NamedTuple):
    """What a process is given when it starts."""

    table: Table
    start: _State
    rows: Any  # a number shared between processes
    stop: Any  # an event shared between them


_WORKER: list[_Worker] = []


class _Stopped(Exception):
    """The parent wants no more."""


def _start_worker(worker: _Worker) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which tells us
    pa.set_cpu_count(1)  # each process has one core; more threads would only hold more memory
    pa.set_io_thread_count(1)
    _WORKER[:] = [worker]


def _work(parts: tuple[Part, ...]) -> _State:
    worker = _WORKER[0]
    one = Profile.of_state(*worker.start)
    for rows in _read(one, worker.table, parts):
        with worker.rows.get_lock():
            worker.rows.value += rows
        if worker.stop.is_set():
            raise _Stopped
    pa.default_memory_pool().release_unused()
    return _State(*one.state())


def _in_processes(
    table: Table, groups: list[tuple[Part, ...]], start: _State, workers: int, progress: Progress | None
) -> Profile | None:
    context = multiprocessing.get_context("spawn")
    worker = _Worker(table, start, context.Value("q", 0), context.Event())
    result: Profile | None = None
    with _pool(ProcessPoolExecutor(workers, context, _start_worker, (worker,)), worker) as pool:
        waiting: list[Future[_State]] = []
        ahead = iter(groups)
        for _ in range(workers + 1):  # results wait for their turn, so few are asked for ahead
            waiting += [pool.submit(_work, group) for group in [next(ahead, None)] if group is not None]
        while waiting:
            while not wait(waiting[:1], timeout=0.25).done:
                if progress is not None:
                    done = int(worker.rows.value)
                    progress(done, max(table.metadata.rows, done))
                if any(future.done() and future.exception() for future in waiting):
                    break
            failed = next((future for future in waiting if future.done() and future.exception()), None)
            state = (failed or waiting.pop(0)).result()
            waiting += [pool.submit(_work, group) for group in [next(ahead, None)] if group is not None]
            result = _joined(result, Profile.of_state(*state))
    if progress is not None and result is not None:
        progress(result.rows, result.rows)
    return result


@contextmanager
def _pool(pool: ProcessPoolExecutor, worker: _Worker) -> Iterator[ProcessPoolExecutor]:
    try:
        yield pool
    except BaseException:
        worker.stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
