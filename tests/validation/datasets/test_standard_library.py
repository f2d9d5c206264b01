"""The corpus that needs no download."""

import json
import sysconfig
from pathlib import Path

from validation.datasets.standard_library import MIN_CHARACTERS, standard_library_rows, write_standard_library


def test_rows_are_many_distinct_and_found_where_their_source_says(tmp_path, read):
    path = tmp_path / "library.jsonl"
    count = write_standard_library(path)
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [record["text"] for record in records]
    assert len(records) == count == len(set(texts)) >= 5_000
    assert sum(len(text.encode()) for text in texts) >= 1_600_000
    assert min(map(len, texts)) >= MIN_CHARACTERS
    assert texts == standard_library_rows(), "the same rows in the same order each time"
    assert [text for _, _, text, _ in read(path, text_column="text")] == texts
    assert [item.name for item in tmp_path.iterdir()] == ["library.jsonl"]
    for record in records[::97]:
        module, line = record["source"].rsplit(":", 1)
        source = Path(sysconfig.get_path("stdlib"), *module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
        first_words = record["text"].split()[:3]
        place = " ".join(source.split("\n")[int(line) - 1 :][:8])
        assert all(word in place for word in first_words), record["source"]
