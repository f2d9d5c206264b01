"""Text and shards to windows: what is held out is never trained on, and every position says which windows it holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.data import ByteTokenizer, train_bpe
from atlas_jax.training.needles.texts import NeedleError
from atlas_jax.training.runs.text_data import DataError, count_bytes, encode, read
from atlas_jax.training.runs.windows import KNOWN_FROM, WindowBatches, Windows

LINES = [f"line {i} is {i * i} long\n" for i in range(400)]


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def contents(part):
    return "".join(source.content for source in part)


def many(folder, count=60):
    for i in range(count):
        write(folder, f"{i // 10}/{i:03}.txt", f"file {i} " * (20 + i % 7))
    return folder


@given(st.lists(st.integers(0, 70), min_size=1, max_size=5), st.integers(1, 9))
def test_every_target_of_whole_windows_stands_in_one_window_and_none_crosses_a_stream(sizes, length):
    starts = np.cumsum([0, *sizes])
    streams = [np.arange(start, start + size, dtype=np.uint16) for start, size in zip(starts, sizes, strict=False)]
    windows = Windows(streams, length)
    assert len(windows) == sum(max(0, (size - 1) // length) for size in sizes)
    found = windows[np.arange(len(windows))]
    assert found.dtype == np.int32
    assert (np.diff(found, axis=1) == 1).all()
    targets = found[:, 1:].ravel()
    assert len(set(targets.tolist())) == targets.size
    owner = np.searchsorted(starts, found, side="right")
    assert (owner == owner[:, :1]).all(), "a window goes from one stream into the next"


def test_one_file_is_cut_by_position_at_the_end_of_a_line(tmp_path):
    path = write(tmp_path, "a.txt", "".join(LINES))
    split = read([path], 0.1)
    assert split.by == "position"
    assert contents(split.train) + contents(split.held_out) == "".join(LINES)
    assert contents(split.train).endswith("\n")
    assert 0.07 < len(contents(split.held_out)) / len("".join(LINES)) <= 0.1


def test_text_without_lines_is_cut_all_the_same(tmp_path):
    split = read([write(tmp_path, "a.txt", "x" * 1000)], 0.05)
    assert (len(contents(split.train)), len(contents(split.held_out))) == (950, 50)


def test_many_files_are_held_out_whole(tmp_path):
    split = read([many(tmp_path)], 0.1)
    assert split.by == "file"
    names = [{source.name for source in part} for part in (split.train, split.held_out)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 60
    share = len(contents(split.held_out)) / len(contents(split.held_out) + contents(split.train))
    assert 0.06 < share < 0.15


def test_copies_stay_on_one_side(tmp_path):
    held_out = read([many(tmp_path)], 0.1).held_out
    copies = [write(tmp_path, f"zz/{i}.txt", source.content) for i, source in enumerate(held_out)]
    split = read([tmp_path], 0.1)
    sides = {source.name: side for side, part in enumerate((split.train, split.held_out)) for source in part}
    assert all(sides[str(copy)] == sides[source.name] for copy, source in zip(copies, held_out, strict=True))
    few = tmp_path / "few"
    text = "".join(LINES)
    write(few, "a.txt", text), write(few, "b.txt", text)
    split = read([few], 0.1)
    assert contents(split.train) + contents(split.held_out) == text, "a copy's beginning would be the other's end"


def test_a_named_part_is_held_out_and_may_not_be_trained_on(tmp_path):
    one, other = write(tmp_path, "a.txt", "".join(LINES)), write(tmp_path, "b.txt", "".join(LINES[:50]))
    split = read([one], 0.1, other)
    assert (split.by, contents(split.held_out)) == ("folder", "".join(LINES[:50]))
    copy = write(tmp_path, "c.txt", "".join(LINES))
    with pytest.raises(DataError, match=r"c\.txt: the same as .*a\.txt, expected text that is not trained on"):
        read([one], 0.1, copy)


def test_the_standard_library_is_there_without_any_file():
    split = read([], 0.05)
    assert len(contents(split.train)) > 1_000_000
    assert split.by == "file"
    assert "import" in contents(split.held_out)
    assert read([], 0.05).fingerprint == split.fingerprint != read([], 0.1).fingerprint


def test_the_encoding_is_trained_on_the_training_part_alone(tmp_path):
    path = write(tmp_path, "a.txt", "".join(LINES) + "zzyzx " * 300)
    split = read([path], 0.2)
    tokens = encode(split, length=16, tokenizer="bpe", vocabulary=300)
    assert tokens.tokenizer.fingerprint() == train_bpe([contents(split.train)], 300).fingerprint()
    assert tokens.tokenizer.fingerprint() != train_bpe([path.read_text()], 300).fingerprint()
    assert tokens.vocabulary == tokens.tokenizer.vocab_size


def test_bytes_of_targets_are_counted(tmp_path):
    tokens = encode(read([write(tmp_path, "a.txt", "ä" * 2000)], 0.1), length=50, tokenizer="bytes", vocabulary=9)
    windows = tokens.held_out.spread(2)
    assert windows.shape == (2, 51)
    assert count_bytes(ByteTokenizer(), windows) == 99, "the end of the text is a target and stands for no byte"
    assert tokens.vocabulary == 257


def test_batches_are_addressed_by_position(tmp_path):
    tokens = encode(read([write(tmp_path, "a.txt", "".join(LINES))], 0.1), length=16, tokenizer="bytes", vocabulary=0)
    first, second = (WindowBatches(tokens.train, 7, seed=3) for _ in range(2))
    for position in (0, 5, 200, 3):
        np.testing.assert_array_equal(first.at(position)["tokens"], second.at(position)["tokens"])
    epoch = np.concatenate([first.at(position)["tokens"] for position in range(len(tokens.train))])
    _, counts = np.unique(epoch, axis=0, return_counts=True)
    assert counts.sum() == 7 * len(tokens.train)


def test_a_share_of_the_windows_has_needles_whatever_was_read_before():
    """Windows of one token alone, but for the end of the last, which needles push out: what else is in a text are they."""
    stream = np.concatenate([np.zeros(40 * 64 + 36, np.uint16), np.arange(1, 30, dtype=np.uint16)])
    windows, plain = Windows([stream], 64), Windows([stream[: 40 * 64]], 64)
    batches = WindowBatches(windows, 10, seed=3, needles=0.3)
    found = [batches.at(position) for position in range(60)]
    tokens, weights = (np.concatenate([batch[name] for batch in found]) for name in ("tokens", "weights"))
    repeated = (weights == 0).any(axis=1)
    assert abs(repeated.mean() - 0.3) < 0.06
    np.testing.assert_array_equal(repeated, (tokens == 1).sum(axis=1) > 1)  # 1 is the rarest token, the mark
    np.testing.assert_allclose(weights.mean(axis=1), 1, rtol=1e-6)
    assert (weights[~repeated] == 1).all()
    for text, weight in zip(tokens[repeated], weights[repeated], strict=True):
        assert (text[1:][weight > 0] != 1).all(), "what is learnt is no mark"
    again = WindowBatches(windows, 10, seed=3, needles=0.3)
    for position in (59, 7, 0):
        for name, value in again.at(position).items():
            np.testing.assert_array_equal(value, found[position][name])
    other = np.concatenate([WindowBatches(windows, 10, seed=4, needles=0.3).at(i)["tokens"] for i in range(60)])
    assert not np.array_equal(other, tokens)
    assert WindowBatches(windows, 10, seed=3).at(0).keys() == {"tokens"}
    with pytest.raises(NeedleError, match="1 different tokens, expected at least 3"):
        WindowBatches(plain, 10, seed=3, needles=0.3)
    with pytest.raises(NeedleError, match="a text has 13 tokens"):
        WindowBatches(Windows([stream[-40:]], 12), 10, seed=3, needles=0.3)


def test_rows_without_needles_are_those_of_a_run_without():
    windows = Windows([np.arange(3000) % 50], 32)
    some, none, all_ = (WindowBatches(windows, 8, seed=1, needles=share) for share in (0.5, 0.0, 1.0))
    for position in range(20):
        mixed, plain, needles = (batches.at(position)["tokens"] for batches in (some, none, all_))
        taken = (mixed != plain).any(axis=1)
        np.testing.assert_array_equal(mixed[~taken], plain[~taken])
        np.testing.assert_array_equal(mixed[taken], needles[taken])


def test_of_a_large_shard_little_is_read_to_know_its_tokens():
    class Counted(Windows):
        read = 0

        def __getitem__(self, chosen):
            self.read += len(chosen) * self.length
            return super().__getitem__(chosen)

    shard = np.zeros(2**24, np.uint16)
    shard[:50], shard[-50:] = np.arange(50), np.arange(50, 100)
    windows = Counted([shard[:3000], shard], 1024)
    batches = WindowBatches(windows, 2, seed=0, needles=1.0)
    assert 0 < windows.read <= KNOWN_FROM
    assert len(np.unique(batches.at(5)["tokens"])) > 15
    np.testing.assert_array_equal(windows.longest(60), [*range(50), *[0] * 10])


@pytest.mark.parametrize("header", [False, True])
def test_shards_are_mapped_and_never_joined(tmp_path, header):
    written = [np.arange(n, dtype=np.uint16) + 1000 * n for n in (50, 41)]
    start = np.zeros(256, np.int32)
    start[0] = 20240520
    for name, tokens in zip("ab", written, strict=True):
        (tmp_path / f"{name}.bin").write_bytes((start.tobytes() if header else b"") + tokens.astype("<u2").tobytes())
    np.save(tmp_path / "c.npy", np.arange(30, dtype=np.int64))
    tokens = encode(read([tmp_path], 0.2), length=8, tokenizer="bytes", vocabulary=60_000)
    train = tokens.train[np.arange(len(tokens.train))]
    held_out = tokens.held_out[np.arange(len(tokens.held_out))]
    assert (np.diff(train, axis=1) == 1).all()
    assert not set(train[:, 1:].ravel().tolist()) & set(held_out[:, 1:].ravel().tolist())
    assert (tokens.tokenizer, tokens.vocabulary, tokens.train_tokens) == (None, 60_000, 40 + 32 + 24)
    with pytest.raises(DataError, match=r"a\.bin: its smallest token is 50000, expected 0 to 49999; name --tokenizer"):
        encode(read([tmp_path], 0.2), length=8, tokenizer="bytes", vocabulary=50_000)


def test_what_is_no_data_is_named(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"ab\xff\xfe")
    (tmp_path / "odd.bin").write_bytes(b"abc")
    np.save(tmp_path / "square.npy", np.zeros((2, 2), np.int32))
    np.save(tmp_path / "float.npy", np.zeros(9))
    (tmp_path / "fake.npy").write_text("no array")
    np.save(tmp_path / "good.npy", np.zeros(9, np.int32))
    (tmp_path / "folder").mkdir()
    text = write(tmp_path, "text.txt", "text")
    for paths, message in (
        (["none.txt"], r"none\.txt: no such file or folder"),
        (["empty.txt"], r"empty\.txt: is empty, expected text"),
        (["binary.txt"], r"binary\.txt: not text in UTF-8"),
        (["odd.bin"], r"odd\.bin: has 3 bytes, expected an even number"),
        (["square.npy"], r"square\.npy: is int32\[2, 2\], expected integers in one axis"),
        (["float.npy"], r"float\.npy: is float64\[9\], expected integers"),
        (["fake.npy"], r"fake\.npy: not an array of NumPy"),
        (["folder"], r"folder: no file in it ends in \.txt"),
        (["good.npy", "text.txt"], r"text\.txt: is text where .*good\.npy is tokens, expected all of one kind"),
    ):
        with pytest.raises(DataError, match=message):
            read([tmp_path / name for name in paths], 0.1)
    with pytest.raises(DataError, match=r"text\.txt: 3 tokens are to train on, expected at least 17, one window of 16"):
        encode(read([text], 0.3), length=16, tokenizer="bytes", vocabulary=0)
    long = write(tmp_path, "long.txt", "text " * 40)
    with pytest.raises(DataError, match=r"long\.txt: 11 tokens are held out, expected at least 17"):
        encode(read([long], 0.05), length=16, tokenizer="bytes", vocabulary=0)


@pytest.mark.parametrize("text", ["x", "hello world\n"])
def test_text_too_short_to_part_is_named(tmp_path, text):
    path = write(tmp_path, "short.txt", text)
    with pytest.raises(
        DataError, match=rf"short\.txt: {len(text)} characters are too few to hold out 0\.05 of them, exp"
    ):
        read([path], 0.05)


def test_shards_without_tokens_to_part_are_named(tmp_path):
    np.save(tmp_path / "none.npy", np.zeros(0, np.int32))
    np.save(tmp_path / "one.npy", np.zeros(1, np.int32))
    (tmp_path / "one.bin").write_bytes(b"\x01\x00")
    header = np.zeros(256, "<i4")
    header[0] = 20240520
    (tmp_path / "header.bin").write_bytes(header.tobytes())
    for name, message in (
        ("none.npy", r"none\.npy: has no token, expected some"),
        ("one.npy", r"one\.npy: 1 tokens are too few to hold out 0\.05 of them, expected some to train on"),
        ("one.bin", r"one\.bin: 1 tokens are too few to hold out"),
        ("header.bin", r"header\.bin: has no token after its header"),
    ):
        with pytest.raises(DataError, match=message):
            read([tmp_path / name], 0.05)
