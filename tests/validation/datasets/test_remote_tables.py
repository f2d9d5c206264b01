"""Tables behind s3://: a real server, wrong keys, missing places, and connections that break."""

import itertools
import os
import re
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.validation.datasets.table_files import TABLE, rows_of, write
from validation.datasets import DatasetError, open_dataset, open_table
from validation.datasets.__main__ import main

KEY, SECRET = "testing-access-key", "testing-secret-key"
RCLONE = shutil.which("rclone", path=f"{Path(os.sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
MANY = pa.table({"id": range(400_000), "size": [number * 0.37 for number in range(400_000)]})


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Port of an S3 server with the bucket `data`."""
    if RCLONE is None:
        pytest.skip("rclone is not installed: the S3 server of these tests")
    root = tmp_path_factory.mktemp("s3")
    (root / "data" / "sub").mkdir(parents=True)
    for name in ("a.parquet", "sub/b.parquet", "rows.jsonl", "table.xlsx", "arrays.h5", "lines.csv.gz"):
        write(TABLE, root / "data" / name)
    pq.write_table(MANY, root / "data" / "many.parquet", compression="none", row_group_size=50_000)
    write(MANY.slice(0, 150_000), root / "data" / "many.csv")
    port = free_port()
    command = [RCLONE, "serve", "s3", "--config", os.devnull, "--auth-key", f"{KEY},{SECRET}"]
    with subprocess.Popen(
        [*command, "--addr", f"127.0.0.1:{port}", str(root)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
        process.terminate()


@pytest.fixture
def storage(server, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return options(server)


def options(port):
    return {
        "endpoint_override": f"127.0.0.1:{port}",
        "scheme": "http",
        "region": "us-east-1",
        "access_key": KEY,
        "secret_key": SECRET,
    }


@pytest.mark.parametrize("name", ["a.parquet", "rows.jsonl", "table.xlsx", "arrays.h5", "lines.csv.gz"])
def test_remote_files_give_the_rows_of_local_ones(storage, name):
    table = open_table(f"s3://data/{name}", storage=storage)
    assert table.metadata.path == f"s3://data/{name}"
    expected = [(0, row, tuple(values.values())) for row, values in enumerate(TABLE.to_pylist(), 1)]
    assert rows_of(table.stream(70)) == expected
    assert SECRET not in repr(table)
    texts = open_dataset(f"s3://data/{name}", storage=storage, text_column="name").stream()
    assert [row["row"] for batch in texts for row in batch.to_pylist()] == list(range(1, 251))


def test_folders_and_patterns(storage):
    assert open_table("s3://data/sub", storage=storage).metadata.files == ("b.parquet",)
    assert open_table("s3://data/[as]*.parquet", storage=storage).metadata.files == ("a.parquet",)
    found = open_table("s3://data/**/?.parquet", storage=storage)
    assert found.metadata.files == ("a.parquet", "sub/b.parquet")
    assert len(rows_of(found.stream())) == 500


def test_keys_and_place_from_the_environment(server, monkeypatch, capsys):
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    assert main(["s3://data/a.parquet"]) == 0
    assert "250" in capsys.readouterr().out
    assert main(["s3://data/nothing.parquet"]) == 2
    assert capsys.readouterr().err == "error: s3://data/nothing.parquet: no such file or folder\n"


@pytest.mark.parametrize(
    ("uri", "change", "reason"),
    [
        ("s3://data/none.parquet", {}, r"s3://data/none\.parquet: no such file or folder"),
        ("s3://nobucket/a.parquet", {}, r"s3://nobucket/a\.parquet: no such file or folder"),
        ("s3://data/a.parquet", {"secret_key": "another-secret"}, r"ACCESS_DENIED .*; expected other keys"),
        ("s3://data/a.parquet", {"access_key": "another-access"}, r"ACCESS_DENIED .*; expected other keys"),
        ("s3://data/*.tsv", {}, "no data files; known suffixes"),
        ("s3:///a.parquet", {}, "no bucket; expected s3://bucket/path"),
        ("s3://data/a.parquet", {"secret": "x"}, "unknown option 'secret'; known: access_key, endpoint_override"),
        (f"s3://{KEY}:{SECRET}@data/none.csv?region=r", {}, r"s3://data/none\.csv: no such file or folder"),
        ("nowhere://data/a.csv", {}, "Unrecognized filesystem"),
    ],
)
def test_errors_are_one_line_without_keys(storage, uri, change, reason):
    with pytest.raises(DatasetError, match=reason) as caught:
        open_table(uri, storage={**storage, **change})
    message = str(caught.value)
    assert "\n" not in message
    for secret in (KEY, SECRET, "another-secret", "another-access"):
        assert secret not in message
    assert caught.value.__cause__ is None


class Breaking(socketserver.ThreadingTCPServer):
    """Passes connections on to a port; each of the next `breaks` ones is cut after `after` bytes of answer."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), Passing)
        self.target, self.breaks, self.after, self.cut = target, 0, 0, 0


class Passing(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.target)) as upstream:
            threading.Thread(target=self.pass_up, args=(upstream,), daemon=True).start()
            passed = 0
            while block := self.receive(upstream):
                passed += len(block)
                if self.server.breaks > 0 and passed > self.server.after:
                    self.server.breaks -= 1
                    self.server.cut += 1
                    upstream.shutdown(socket.SHUT_RDWR)
                    return
                self.request.sendall(block)

    def pass_up(self, upstream):
        while block := self.receive(self.request):
            try:
                upstream.sendall(block)
            except OSError:
                return

    def receive(self, connection):
        try:
            return connection.recv(1 << 16)
        except OSError:
            return b""


@pytest.fixture
def breaking(server, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("validation.datasets.storage.FIRST_PAUSE", 0.01)
    with Breaking(server) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@pytest.mark.parametrize("name", ["many.parquet", "many.csv"])
def test_a_cut_connection_is_tried_again_where_it_stopped(breaking, name):
    table = open_table(f"s3://data/{name}", storage=options(breaking.server_address[1]))
    breaking.breaks, breaking.after = 3, 100_000
    ids = [number for chunk in table.stream(10_000, columns=["id"]) for number in chunk.data.column(0).to_pylist()]
    assert breaking.cut == 3
    assert ids == list(range(len(ids)))
    assert len(ids) == (400_000 if name == "many.parquet" else 150_000)


@pytest.mark.parametrize("name", ["many.parquet", "many.csv"])
def test_a_dead_connection_is_an_error_after_bounded_attempts_and_the_stream_can_go_on(breaking, name):
    place = options(breaking.server_address[1])
    table = open_table(f"s3://data/{name}", storage=place)
    got, reached = [], (0, 0)
    stream = table.stream(20_000, columns=["id"])
    for chunk in itertools.islice(stream, 2):
        got += chunk.data.column(0).to_pylist()
        reached = (chunk.file, int(chunk.row[-1]))
    breaking.breaks, breaking.after = 1_000_000, 0
    error = None
    try:
        for chunk in stream:
            got += chunk.data.column(0).to_pylist()
            reached = (chunk.file, int(chunk.row[-1]))
    except DatasetError as caught:
        error = str(caught)
    assert error is not None
    assert re.match(rf"s3://data/{name}: .*cannot be read at byte \d+ \(4 attempts\)", error)
    assert SECRET not in error
    assert "\n" not in error
    breaking.breaks = 0
    for chunk in open_table(f"s3://data/{name}", storage=place).stream(20_000, columns=["id"], after=reached):
        got += chunk.data.column(0).to_pylist()
    assert got == list(range(400_000 if name == "many.parquet" else 150_000))
