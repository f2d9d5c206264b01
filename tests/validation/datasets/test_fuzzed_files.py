"""Broken files of every format: a result or our error, never another exception, a crash or a hang.

A crash of a C library would take the test process down, so files are read in a child process that names the file it is at.
"""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.validation.datasets.table_files import TABLE, write
from validation.datasets import DatasetError, open_dataset, open_table

READER = """
import pathlib, resource, sys
from validation.datasets import DatasetError, open_dataset, open_table
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    print(path.name, flush=True)
    for view in (lambda: open_table(path, skip_bad_rows=True), lambda: open_dataset(path, text_column="name")):
        try:
            for _ in view().stream(): pass
        except DatasetError as error:
            assert str(error).count("\\n") == 0, path
print("done")
"""
BINARY = ["parquet", "arrow", "arrows", "feather", "h5", "xlsx"]
TEXTUAL = ["csv", "tsv", "json", "jsonl", "txt", "csv.gz", "jsonl.zst"]


def damaged(whole, rng):
    """A copy of a file that is cut, has some bytes changed, or has a piece of noise, zeros or of itself inside."""
    copy = bytearray(whole)
    kind = rng.integers(5)
    if kind == 0:
        return bytes(copy[: rng.integers(1, len(copy))])
    start = int(rng.integers(len(copy)))
    size = int(min(rng.integers(1, 64), len(copy) - start))
    if kind == 1:
        for place in rng.integers(0, len(copy), rng.integers(1, 8)):
            copy[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        copy[start : start + size] = rng.bytes(size)
    elif kind == 3:
        copy[start : start + size] = (b"\0" if rng.integers(2) else b"\xff") * size
    else:
        other = int(rng.integers(len(copy) - size + 1))
        copy[start : start + size] = whole[other : other + size]
    return bytes(copy)


def last_line_of_a_child(folder, seconds):
    """Reads all files of a folder in another process: "done", or at which file it ended and how."""
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", READER, str(folder)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    last = found.stdout.split()[-1]
    return last if last == "done" else f"{last} ended the reader with {found.returncode}: {found.stderr[-2000:]}"


def write_damaged(folder, suffix, count, seed):
    (folder / "files").mkdir()
    whole_path = folder / f"data.{suffix}"
    if suffix == "txt":
        whole_path.write_text("\n".join(TABLE["name"].to_pylist()), encoding="utf-8")
    else:
        write(TABLE.slice(0, 60), whole_path)
    whole = whole_path.read_bytes()
    rng = np.random.default_rng(seed)
    for number in range(count):
        (folder / "files" / f"{number:04d}.{suffix}").write_bytes(damaged(whole, rng))


@pytest.mark.parametrize("suffix", BINARY)
def test_damaged_binary_files(tmp_path, suffix):
    write_damaged(tmp_path, suffix, 60, 1)
    assert last_line_of_a_child(tmp_path / "files", 120) == "done"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", BINARY)
def test_many_damaged_binary_files(tmp_path, suffix):
    write_damaged(tmp_path, suffix, 1_000, 2)
    assert last_line_of_a_child(tmp_path / "files", 500) == "done"


@pytest.mark.parametrize("suffix", TEXTUAL)
def test_damaged_text_files(tmp_path, suffix):
    write_damaged(tmp_path, suffix, 40, 3)
    for path in sorted((tmp_path / "files").iterdir()):
        assert not any("\n" in message for message in messages(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=200), suffix=st.sampled_from([*BINARY, *TEXTUAL]))
def test_any_bytes(tmp_path, content, suffix):
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(content)
    assert not any("\n" in message for message in messages(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(text=st.text(st.sampled_from("ab1.-\"',\t\r\n {}[]:\0\ufeffé"), min_size=1, max_size=60))
@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "txt"])
def test_any_text_of_marks_that_mean_something(tmp_path, text, suffix):
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(text.encode())
    assert not any("\n" in message for message in messages(path))


def messages(path):
    """Errors of both views of a file, "" for rows; any other exception goes through."""
    found = []
    for view in (lambda: open_table(path, skip_bad_rows=True), lambda: open_dataset(path)):
        message = ""
        try:
            for _ in view().stream():
                pass
        except DatasetError as error:
            message = str(error)
        found.append(message)
    return found
