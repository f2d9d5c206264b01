"""What a sample may be written to, and what it may be drawn from."""

import json

import pyarrow.parquet as pq
import pytest

from tests.validation.test_sampling import mixed
from validation.datasets import open_table
from validation.sampling import first_look, stratified_sample


@pytest.mark.parametrize(
    ("data", "out", "reason"),
    [
        ("user.json", "user.parquet", r"user\.json is a file of the data"),
        ("user.parquet", "user.parquet", r"user\.parquet is a file of the data"),
        ("user.parquet", "linked.parquet", r"linked\.parquet is a file of the data"),
        ("user.parquet", "sample.json", r"sample\.json: expected a name that ends in \.parquet"),
        ("user.parquet", "sample.csv", r"sample\.csv: expected a name that ends in \.parquet"),
        ("user.parquet", "other.parquet", r"other\.json is there already, and no sample beside it"),
        ("user.parquet", "folder.parquet", r"folder\.parquet is a folder"),
    ],
)
def test_nothing_of_the_users_is_written_over(tmp_path, data, out, reason):
    table = mixed(200)
    pq.write_table(table, tmp_path / "user.parquet")
    (tmp_path / "user.json").write_text(json.dumps(table.to_pylist()), encoding="utf-8")
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    (tmp_path / "linked.parquet").symlink_to(tmp_path / "user.parquet")
    (tmp_path / "folder.parquet").mkdir()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=reason):
        stratified_sample(open_table(tmp_path / data), 20, tmp_path / out)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("rows", [400, 4_000])
def test_a_first_look_of_other_data_is_refused(tmp_path, rows):
    path = tmp_path / "a.parquet"
    pq.write_table(mixed(2_000), path)
    look = first_look(open_table(path))
    pq.write_table(mixed(rows), path)
    with pytest.raises(ValueError, match=f"{rows} rows, and the first look was of 2000; expected the same data"):
        stratified_sample(open_table(path), 50, tmp_path / "o.parquet", look=look)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_samples_of_samples_of_samples(tmp_path):
    data = tmp_path / "0.parquet"
    pq.write_table(mixed(1_000), data)
    for again in range(1, 4):
        out = tmp_path / f"{again}.parquet"
        sample = stratified_sample(open_table(data), 800 >> again, out)
        assert sample.columns == tuple(
            "sample_" * (again - 1) + name for name in ("file", "row", "weight", "stratum", "outlier")
        )
        data = out
