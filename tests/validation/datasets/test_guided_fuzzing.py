"""Fuzzing that follows coverage of our readers (atheris, the extra `fuzz`): a result or our error, nothing else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.validation.datasets.table_files import TABLE, write

SECONDS = 20
PROGRAM = """
import pathlib, sys
import atheris
with atheris.instrument_imports(include=["validation.datasets"]):
    from validation.datasets import DatasetError, open_dataset, open_table
path = pathlib.Path(sys.argv.pop())
runs = 0

def read(data):
    global runs
    runs += 1
    path.write_bytes(data)
    for view in (lambda: open_table(path, skip_bad_rows=True), lambda: open_dataset(path, text_column="name")):
        try:
            for _ in view().stream(): pass
        except DatasetError as error:
            if "\\n" in str(error):
                raise RuntimeError(f"an error of several lines: {error}")
    (path.parent / "runs").write_text(str(runs))

atheris.Setup(sys.argv, read)
atheris.Fuzz()
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "txt", "csv.gz", "parquet", "arrow", "h5", "xlsx"])
def test_guided(suffix, tmp_path):
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    if suffix == "txt":
        (corpus / "data.txt").write_text("\n".join(TABLE["name"].to_pylist()[:12]), encoding="utf-8")
    else:
        write(TABLE.slice(0, 12), corpus / f"data.{suffix}")
    options = [
        f"-max_total_time={SECONDS}",
        "-timeout=20",
        "-rss_limit_mb=4000",
        "-max_len=65536",
        f"-artifact_prefix={tmp_path}/",
    ]
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *options, str(corpus), str(tmp_path / f"input.{suffix}")],
        capture_output=True,
        text=True,
        timeout=10 * SECONDS,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    assert found.returncode == 0, f"{found.stdout[-3000:]}\n{found.stderr[-1000:]}"
    assert int((tmp_path / "runs").read_text()) > 20
