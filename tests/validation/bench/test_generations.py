"""Chains of generations: what each one is trained on, and that it is written once."""

from dataclasses import replace

import numpy as np
import pytest
from bench_world import tiny

from validation.bench import generations
from validation.bench.generations import Chain, Chains, accumulated
from validation.bench.rows import Rows

pytestmark = pytest.mark.usefixtures("small")
WRITTEN = 200  # rows of a stub's generation


@pytest.fixture
def domain():
    return tiny("text")


@pytest.fixture
def real(domain):
    return domain.draw(domain.pool, domain.tokens, 0)


@pytest.fixture
def calls(monkeypatch, domain):
    """What the generators are given; they write rows that name the number of the call."""
    calls = []

    def stub(writer):
        def generate(documents, **options):
            rows = [(f"{writer} call {len(calls)} row {number}", "sea") for number in range(WRITTEN)]
            read = [domain.tokenizer.decode(document) for document in documents]
            calls.append({"writer": writer, "read": read, **options})
            return domain.encode(Rows("text", ("text", "label"), rows))

        return generate

    monkeypatch.setattr(generations, "ngram_generation", stub("n-gram"))
    monkeypatch.setattr(generations, "model_generation", stub("model"))
    return calls


def texts_of(call, writer="n-gram"):
    return [f"{writer} call {call} row {number}\tsea" for number in range(WRITTEN)]


def test_replace_reads_the_generation_before_alone(calls, domain, real, tmp_path):
    third = Chains(domain, tmp_path).generation(Chain("n-gram", None, "replace", 2), real, 3)
    assert third == Rows("text", real.columns, [tuple(text.split("\t")) for text in texts_of(2)])
    assert [call["read"] for call in calls] == [real.texts(), texts_of(0), texts_of(1)]


def test_accumulate_reads_the_real_rows_and_all_generations(calls, domain, real, tmp_path):
    Chains(domain, tmp_path).generation(Chain("model", None, "accumulate", 0), real, 3)
    first, second = texts_of(0, "model"), texts_of(1, "model")
    assert [call["read"] for call in calls] == [real.texts(), real.texts() + first, real.texts() + first + second]


def test_subsample_reads_an_equal_share_of_each_as_much_as_the_real_rows_were(calls, domain, real, tmp_path):
    Chains(domain, tmp_path).generation(Chain("n-gram", None, "subsample", 0), real, 2)
    first, second = (call["read"] for call in calls)
    assert first == real.texts()
    parts = [[text for text in second if text in known] for known in (set(real.texts()), set(texts_of(0)))]
    assert sum(map(len, parts)) == len(second) == len(set(second))
    for part in parts:
        cells = [tuple(text.split("\t")) for text in part]
        assert sum(domain.sizes(Rows("text", real.columns, cells))) == pytest.approx(domain.tokens / 2, rel=0.05)


@pytest.mark.parametrize("count", [2, 4])
def test_a_dataset_of_generations_keeps_its_size_only_where_it_is_subsampled(domain, count):
    parts = [domain.draw(domain.pool, domain.tokens, seed) for seed in range(count)]
    whole = accumulated(domain, Chain("model", None, "accumulate", 0), parts)
    assert whole.cells == [cells for part in parts for cells in part.cells]
    chain = Chain("model", None, "subsample", 0)
    sample = accumulated(domain, chain, parts)
    assert sum(domain.sizes(sample)) == pytest.approx(domain.tokens, rel=0.1)
    assert sample == accumulated(domain, chain, parts)
    assert set(sample.cells) != set(accumulated(domain, Chain("model", None, "subsample", 1), parts).cells)


def test_generators_are_asked_for_a_case_s_tokens_from_a_seed_of_their_own(calls, domain, real, tmp_path):
    for seed, top_k in ((1, None), (2, 20)):
        Chains(domain, tmp_path).generation(Chain("model", top_k, "replace", seed), real, 2)
    Chains(domain, tmp_path).generation(Chain("n-gram", None, "replace", 1), real, 1)
    assert len({call["seed"] for call in calls[:4]}) == 4
    assert [call["top_k"] for call in calls] == [None, None, 20, 20, None]
    assert [call["writer"] for call in calls] == ["model"] * 4 + ["n-gram"]
    assert {call["tokens"] for call in calls} == {domain.tokens}
    assert {(call["vocab_size"], call["eos"]) for call in calls} == {
        (domain.tokenizer.vocab_size, domain.tokenizer.eos)
    }
    assert [call.get("steps") for call in calls] == [domain.steps] * 4 + [None]


def test_a_chain_is_written_once_and_read_back(calls, domain, real, tmp_path):
    chain, folder = Chain("n-gram", 20, "replace", 0), tmp_path / "deep" / "chains"
    third = Chains(domain, folder).generation(chain, real, 3)
    assert len(calls) == len(list(folder.iterdir())) == 3
    for number in (3, 2, 1):
        again = Chains(domain, folder).generation(chain, real, number)
        assert (again.kind, again.columns) == (real.kind, real.columns)
    assert Chains(domain, folder).generation(chain, real, 3) == third
    assert Chains(domain, folder).generation(chain, real, 3).fingerprint() == third.fingerprint()
    assert len(calls) == 3
    Chains(domain, folder).generation(chain, real, 4)
    assert len(calls) == 4
    assert calls[3]["read"] == third.texts()


def test_other_chains_are_other_files(calls, domain, real, tmp_path):
    chains = [
        Chain("n-gram", None, "replace", 0),
        Chain("model", None, "replace", 0),
        Chain("n-gram", 20, "replace", 0),
        Chain("n-gram", None, "accumulate", 0),
        Chain("n-gram", None, "replace", 1),
    ]
    for chain in chains:
        Chains(domain, tmp_path).generation(chain, real, 1)
    Chains(domain, tmp_path).generation(chains[0], real.take(range(1, len(real))), 1)
    Chains(domain.halved(), tmp_path).generation(chains[0], real, 1)
    Chains(replace(domain, fingerprint="that of another corpus"), tmp_path).generation(chains[0], real, 1)
    assert len(calls) == len(list(tmp_path.iterdir())) == 8


def test_a_write_that_broke_off_is_not_taken_for_a_generation(calls, domain, real, tmp_path, monkeypatch):
    chain = Chain("n-gram", None, "replace", 0)

    def killed(path, text, **options):
        with path.open("w", **options) as file:
            file.write(text[: len(text) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(generations.Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            Chains(domain, tmp_path).generation(chain, real, 1)
    assert list(tmp_path.iterdir())
    again = Chains(domain, tmp_path).generation(chain, real, 1)
    assert again.texts() == texts_of(1)
    assert Chains(domain, tmp_path).generation(chain, real, 1) == again
    assert len(calls) == 2


@pytest.mark.parametrize("top_k", [None, 20])
def test_n_grams_write_rows_of_the_kind(tmp_path, top_k):
    for kind in ("text", "table", "series"):
        own = tiny(kind)
        rows = own.draw(own.pool, own.tokens, 0)
        chain = Chain("n-gram", top_k, "replace", 0)
        first = Chains(own, tmp_path / "a").generation(chain, rows, 1)
        assert (first.kind, first.columns) == (rows.kind, rows.columns)
        assert {len(cells) for cells in first.cells} == {len(rows.columns)}
        assert 0.5 < own.sizes(first).sum() / own.tokens < 1.2
        assert len(set(first.cells) - set(rows.cells)) > 0.2 * len(first)
        again = Chains(own, tmp_path / "b").generation(chain, rows, 1)
        assert again == first
        assert Chains(own, tmp_path / "a").generation(chain, rows, 2) != first


def test_a_model_writes_rows_of_the_kind(domain, real, tmp_path):
    chain = Chain("model", None, "replace", 0)
    first = Chains(domain, tmp_path / "a").generation(chain, real, 1)
    assert first.columns == real.columns
    assert 0.3 < domain.sizes(first).sum() / domain.tokens < 1.2
    words = {word for cells in real.cells for word in cells[0].split()}
    written = [word for cells in first.cells for word in cells[0].split()]
    assert np.mean([word in words for word in written]) > 0.5  # it has learnt the language
    assert Chains(domain, tmp_path / "b").generation(chain, real, 1) == first
