"""What was there stays until all of what is new is."""

from __future__ import annotations

import os

import pytest

from atlas_jax.training.whole_file import write_whole


def test_a_file_in_a_new_folder_is_replaced(tmp_path):
    path = tmp_path / "new" / "decision.json"
    for text in ("first\n", "zweite: ö\n"):
        write_whole(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [file.name for file in path.parent.iterdir()] == ["decision.json"]


def test_what_was_there_stays_where_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "decision.json"
    write_whole(path, "old")

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
