"""What was there stays until all of what is new is."""

from __future__ import annotations

import os
import resource

import pytest

from atlas_jax.training.whole_file import append_lines, write_whole


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
    assert [file.name for file in tmp_path.iterdir()] == ["decision.json"]


def test_lines_are_appended_after_a_torn_one_is_taken_away(tmp_path):
    path = tmp_path / "events.jsonl"
    for lines in ("one\n", "zwei: ö\n"):
        append_lines(path, lines)
    assert path.read_text(encoding="utf-8") == "one\nzwei: ö\n"
    path.write_text("one\ntw")
    append_lines(path, "three\nfour\n")
    assert path.read_text() == "one\nthree\nfour\n"
    path.write_text("torn" * 3000)
    append_lines(path, "one\n")
    assert path.read_text() == "one\n"


def test_lines_that_do_not_fit_leave_the_file_as_it_was_and_name_it(tmp_path):
    path = tmp_path / "events.jsonl"
    append_lines(path, "one\n")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, usual[1]))  # room for two bytes more
    try:
        with pytest.raises(OSError, match=f"File too large: '{path}'"):
            append_lines(path, "two\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert path.read_text() == "one\n"
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        append_lines("/dev/full", "two\n")
