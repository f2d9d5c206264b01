"""How the tests of datasets read: every row as (file, row, text, trained_from)."""

import pytest

from validation.datasets import open_dataset


@pytest.fixture
def read():
    def read_rows(path, chunk_rows=100_000, **options):
        batches = open_dataset(path, **options).stream(chunk_rows)
        return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]

    return read_rows
