"""Packing against the plain stream: every token but the first is a target exactly once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.data import pack

EOS = 99


@given(
    documents=st.lists(st.lists(st.integers(0, 98), max_size=9), min_size=1, max_size=8),
    length=st.integers(1, 12),
    first_row=st.integers(0, 1000),
)
def test_every_token_but_the_first_is_a_target_once(documents, length, first_row):
    documents = [[7], *documents]
    ids = [first_row + 3 * i for i in range(len(documents))]
    stream = [(token, row) for document, row in zip(documents, ids, strict=True) for token in [*document, EOS]]
    packed = pack([np.array(d, np.int64) for d in documents], length=length, eos=EOS, row_ids=ids)

    assert packed.tokens.shape == packed.rows.shape == (-(-(len(stream) - 1) // length), length + 1)
    assert packed.tokens.dtype == packed.rows.dtype == np.int32
    targets = zip(packed.tokens[:, 1:].ravel(), packed.rows[:, 1:].ravel(), strict=True)
    assert [(token, row) for token, row in targets if row >= 0] == stream[1:]
    inputs = packed.tokens[:, :-1].ravel()[: len(stream) - 1]
    assert inputs.tolist() == [token for token, _ in stream[:-1]]
    padding = packed.rows == -1
    assert (packed.tokens[padding] == EOS).all()
    assert not padding[:-1].any()


def test_one_document_by_hand():
    packed = pack(
        [np.array([1, 2, 3]), np.array([], np.int32), np.array([4])], length=3, eos=0, row_ids=np.array([5, 6, 7])
    )
    assert packed.tokens.tolist() == [[1, 2, 3, 0], [0, 0, 4, 0]]
    assert packed.rows.tolist() == [[5, 5, 5, 5], [5, 6, 7, 7]]


@pytest.mark.parametrize(
    ("documents", "rows", "length", "message"),
    [
        ([np.array([1])], [0, 1], 4, "1 documents but 2 row_ids"),
        ([np.array([1])], [0], 0, "length=0"),
        ([np.array([], np.int32)], [0], 4, "nothing to predict"),
        ([], [], 4, "nothing to predict"),
    ],
)
def test_impossible_input_is_refused(documents, rows, length, message):
    with pytest.raises(ValueError, match=message):
        pack(documents, length=length, eos=0, row_ids=rows)
