"""Tokenizers: every text returns, bytes add up, equal training gives equal files, and bad files are named."""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.data import ByteTokenizer, Tokenizer, load_tokenizer, train_bpe

SAMPLE = ["the cat sat on the mat, the cat sat", "Ünïcode – 中文 ✓ 🙂", "def f(x):\n\treturn x  # <eos>"] * 20


@functools.cache
def bpe():
    return train_bpe(SAMPLE, 300)


KINDS = pytest.mark.parametrize("make", [ByteTokenizer, bpe], ids=["bytes", "bpe"])


@KINDS
@given(texts=st.lists(st.text() | st.sampled_from([*SAMPLE, "<eos>", "a<eos>\x00b", " \n "]), max_size=4))
def test_any_text_returns_and_its_bytes_add_up(make, texts):
    tokenizer = make()
    encoded = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    assert all(ids.dtype == np.int32 and tokenizer.eos not in ids for ids in encoded)
    lengths = tokenizer.byte_lengths()
    assert [int(lengths[ids].sum()) for ids in encoded] == [len(text.encode()) for text in texts]


@KINDS
def test_saved_and_loaded_is_the_same_tokenizer(make, tmp_path):
    tokenizer = make()
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(loaded, Tokenizer)
    assert (loaded.fingerprint(), loaded.vocab_size, loaded.eos) == (
        tokenizer.fingerprint(),
        tokenizer.vocab_size,
        tokenizer.eos,
    )
    assert [list(ids) for ids in loaded.encode_batch(SAMPLE)] == [list(ids) for ids in tokenizer.encode_batch(SAMPLE)]
    assert loaded.decode([*loaded.encode_batch(["ab"])[0].tolist(), loaded.eos]) == "ab"
    assert loaded.byte_lengths().shape == (loaded.vocab_size,)
    assert loaded.byte_lengths()[loaded.eos] == 0


def test_training_is_deterministic_and_its_ids_are_as_declared():
    assert train_bpe(iter(SAMPLE), 300).fingerprint() == bpe().fingerprint()
    assert train_bpe(SAMPLE, 290).fingerprint() != bpe().fingerprint()
    assert (bpe().eos, bpe().vocab_size) == (0, 300)
    assert len(bpe().encode_batch(["the cat sat"])[0]) < 6
    with pytest.raises(ValueError, match="vocab_size=256, expected at least 257"):
        train_bpe(SAMPLE, 256)


def test_two_megabytes_train_in_seconds():
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))) for _ in range(5000)]
    texts = [" ".join(draw.choices(words, k=100)) for _ in range(3600)]
    started = time.process_time()
    assert train_bpe(texts, 1024).vocab_size == 1024
    assert sum(len(text) for text in texts) > 2_000_000
    assert time.process_time() - started < 10  # about one on an idle core


def word_piece(vocabulary):
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.decoder = tokenizers.decoders.WordPiece()
    inner.add_special_tokens([name for name in ("[SEP]", "[UNK]") if name in vocabulary])
    return inner


def test_a_user_s_tokenizer_keeps_neither_truncation_nor_padding_nor_special_tokens(tmp_path):
    inner = word_piece({"[UNK]": 0, "[SEP]": 1, "play": 2, "##ing": 3, "é": 4})
    inner.enable_truncation(2)
    inner.enable_padding(length=8)
    inner.post_processor = tokenizers.processors.TemplateProcessing("$A [SEP]", special_tokens=[("[SEP]", 1)])
    inner.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.eos == 1
    assert loaded.encode_batch(["playing é play"])[0].tolist() == [2, 3, 4, 2]
    assert loaded.byte_lengths().tolist() == [0, 0, 4, 3, 2]


def test_sentencepiece_lengths(tmp_path):
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({"</s>": 0, "<0x0A>": 1, "▁the": 2}, [], byte_fallback=True))
    inner.add_special_tokens(["</s>"])
    inner.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path / "tokenizer.json").byte_lengths().tolist() == [0, 1, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"no json", "not a tokenizer.json"),
        (json.dumps({"vocab": [1, 2]}).encode(), "not a tokenizer.json"),
        (word_piece({"[UNK]": 0, "a": 1}).to_str().encode(), "needs a token that ends a document, one of <eos>, </s>"),
    ],
    ids=["missing", "binary", "text", "json", "no_eos"],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        load_tokenizer(path)
    assert str(path) in str(raised.value)


FORKED = """
import os, sys
from atlas_jax.data import train_bpe
assert "jax" not in sys.modules
tokenizer = train_bpe(["some text to start the threads"] * 100, 300)
tokenizer.encode_batch(["some text"] * 100)
child = os.fork()
if child == 0:
    os._exit(len(tokenizer.encode_batch(["some text"] * 100)))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) - 100)
"""


@pytest.mark.parametrize("setting", [{}, {"TOKENIZERS_PARALLELISM": "true"}], ids=["unset", "true"])
def test_a_forked_process_encodes_without_a_warning(setting):
    unset = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, env=unset | setting, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
