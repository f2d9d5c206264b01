"""One pass over a table, its parts shared out among threads; arrow and numpy leave the interpreter free while they work."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

from threadpoolctl import threadpool_limits

from validation.datasets import Chunk, Table

Progress = Callable[[int], None]
"""Told of the rows that have been done so far in this pass."""
CHUNK_ROWS = 65_536


def run_pass(
    table: Table,
    use: Callable[[int, Chunk], Any],
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    finish: Callable[[int], Any] | None = None,
) -> int:
    """Hands every chunk of a table to a function, chunks of a part in order, parts side by side.

    Args:
      table: what `open_table` returns.
      use: called with the index of the part and the chunk, from several threads at once.
      workers: threads; None for one a core.
      progress: told of the rows done, from several threads but never from two at once.
      finish: called with the index of each part that is done.

    Returns:
      Bad rows that were left out.

    Raises:
      DatasetError: from the table's reader.
      KeyboardInterrupt: and whatever the functions raise; the threads have ended by then.
    """
    parts = table.parts()
    stop = threading.Event()
    lock, done, skipped = threading.Lock(), 0, 0

    def work(index: int) -> None:
        nonlocal done, skipped
        own = replace(table, skipped=[])  # a stream clears the list that it writes to
        for chunk in own.stream(CHUNK_ROWS, parts=(parts[index],)):
            if stop.is_set():
                return
            use(index, chunk)
            with lock:
                done += chunk.data.num_rows
                if progress is not None:
                    progress(done)
        with lock:
            skipped += len(own.skipped)
        if finish is not None:
            finish(index)

    count = min(len(parts), workers or usable_cores())
    with threadpool_limits(1), ThreadPoolExecutor(count) as pool:
        try:
            for future in as_completed([pool.submit(work, index) for index in range(len(parts))]):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return skipped


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
