"""Text files: row numbers are true to the file, and nothing but blank lines is lost."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from validation.datasets import DatasetError, open_dataset
from validation.datasets.text import PARAGRAPH_CHARACTERS

LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff"), max_size=12)


def write(folder, text, name="data.txt", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINE, min_size=1).filter(lambda lines: any(line.strip() for line in lines)), end=st.booleans())
@pytest.mark.parametrize("mark", ["\n", "\r\n"])
def test_every_line_that_is_not_blank_is_in_the_row_named_for_it(tmp_path, read, lines, end, mark):
    path = write(tmp_path, mark.join(lines) + (mark if end else ""))
    seen = {}
    for _, row, text, trained_from in read(path):
        assert trained_from == 0
        for offset, line in enumerate(text.split("\n")):
            assert row + offset not in seen
            seen[row + offset] = line
    assert seen == {number: line for number, line in enumerate(lines, start=1) if line.strip()}


def test_paragraphs_between_blank_lines(tmp_path, read):
    path = write(tmp_path, "\n = Title = \n \nfirst\nsecond\n\t\n\nthird\n")
    assert open_dataset(path).metadata.text_kind == "paragraphs"
    assert [(row, text) for _, row, text, _ in read(path)] == [(2, " = Title = "), (4, "first\nsecond"), (8, "third")]


def test_lines_where_almost_none_is_blank(tmp_path, read):
    lines = [f"line {number}" for number in range(1, 301)]
    lines[150] = ""
    path = write(tmp_path, "\n".join(lines))
    assert open_dataset(path).metadata.text_kind == "lines"
    assert [(row, text) for _, row, text, _ in read(path)] == [(n, t) for n, t in enumerate(lines, start=1) if t]


def test_long_paragraph_splits_at_line_ends(tmp_path, read):
    lines = [f"{number:03d} " + "x" * 996 for number in range(10)]
    path = write(tmp_path, "\n".join(["short", "", *lines, "", "y" * (PARAGRAPH_CHARACTERS + 1), ""]))
    rows = [(row, text) for _, row, text, _ in read(path)]
    assert [row for row, _ in rows] == [1, 3, 6, 9, 12, 14]
    assert "\n".join(text for _, text in rows[1:-1]) == "\n".join(lines)
    assert max(len(text) for _, text in rows[:-1]) <= PARAGRAPH_CHARACTERS
    assert len(rows[-1][1]) == PARAGRAPH_CHARACTERS + 1, "a single line is never cut"


def test_byte_order_mark_and_nul_are_no_obstacle(tmp_path, read):
    assert read(write(tmp_path, "a\0b\n", encoding="utf-8-sig"))[0][2] == "a\0b"


@pytest.mark.parametrize(("prefix", "block"), [(0, b""), (5, b""), ((1 << 20) - 1, b"\xc3"), (1 << 20, b"")])
def test_wrong_encoding_names_the_first_bad_byte(tmp_path, prefix, block):
    path = tmp_path / "latin.txt"
    # Where `block` is the first half of a character that spans two reads, it is the bad byte itself.
    path.write_bytes(b"\n" * prefix + block + "é".encode("latin-1") + b"\nmore\n")
    byte = (block + b"\xe9")[0]
    with pytest.raises(DatasetError, match=rf"latin\.txt: byte {prefix} \(0x{byte:02x}\) is not UTF-8"):
        list(open_dataset(path).stream())


def test_utf16_and_cut_characters_are_told_apart(tmp_path):
    with pytest.raises(DatasetError, match=r"byte 0 .*UTF-16"):
        open_dataset(write(tmp_path, "text", encoding="utf-16"))
    cut = tmp_path / "cut.txt"
    cut.write_bytes("abcé".encode()[:-1])
    with pytest.raises(DatasetError, match=r"byte 3 \(0xc3\)"):
        list(open_dataset(cut).stream())
