"""The shared parts of the quality benchmarks: what the examples ask, what a byte costs, how a rate is found, what is resumed."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import text_quality
from benchmarks.quality import corpora, recall, records, trials
from benchmarks.quality.corpora import Corpus, count_bytes, deal, encode, read_corpus


@pytest.mark.parametrize("pairs", [4, 16])
def test_recall_asks_for_the_value_of_every_key_once(pairs):
    inputs, targets = recall.associative_recall(50, pairs, 64, 100, seed=0).swapaxes(0, 1)
    for tokens, asked in zip(inputs, targets, strict=True):
        keys, values = tokens[: 2 * pairs : 2], tokens[1 : 2 * pairs : 2]
        assert len(set(keys)) == len(set(values)) == pairs
        assert keys.max() < 50 <= values.min()
        (where,) = np.nonzero(asked >= 0)
        assert where.min() >= 2 * pairs
        assert sorted(tokens[where]) == sorted(keys)
        value_of = dict(zip(keys, values, strict=True))
        assert [value_of[token] for token in tokens[where]] == list(asked[where])
        others = np.delete(tokens[2 * pairs :], where - 2 * pairs)
        assert others.min() >= 50  # no filler gives a key another value


def test_queries_follow_the_power_law():
    targets = recall.associative_recall(4000, 1, 64, 100, seed=0)[:, 1]
    share = (targets >= 0).mean(axis=0)[2::2]
    expected = np.arange(1, 32) ** -0.99
    np.testing.assert_allclose(share, expected / expected.sum(), atol=0.025)


@pytest.mark.parametrize("period", [8, 32])
def test_induction_asks_for_what_followed_the_same_token(period):
    examples = recall.induction(50, period, 64, 100, seed=0)
    asked_at = set()
    for tokens, asked in examples:
        (where,) = np.nonzero(asked >= 0)
        assert 3 * period / 4 <= len(where) <= period
        for t in where:
            before = np.flatnonzero(tokens[:t] == tokens[t])
            assert len(before) == 1
            assert tokens[before[0] + 1] == asked[t]
            asked_at.add(t - before[0])
    assert len(asked_at) > 1  # no fixed distance


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (recall.associative_recall, (17, 64, 100), "pairs is 17, expected at most length / 4 = 16"),
        (recall.associative_recall, (16, 64, 30), "pairs is 16, expected at most vocab_size / 2 = 15"),
        (recall.induction, (33, 64, 100), "period is 33, expected at most length / 2 = 32"),
        (recall.induction, (32, 64, 31), "period is 32, expected at most vocab_size = 31"),
    ],
)
def test_impossible_examples_are_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(3, *arguments, seed=0)


def test_levels_are_easy_to_hard_and_named():
    assert recall.levels("associative", 128) == [4, 8, 16, 32]
    assert recall.levels("induction", 128) == [8, 16, 32, 64]
    with pytest.raises(ValueError, match="task is 'copying', expected one of associative, induction"):
        recall.levels("copying", 128)
    with pytest.raises(ValueError, match="length of induction is 8, expected at least 16"):
        recall.levels("induction", 8)


def test_many_documents_are_dealt_in_blocks_8_1_1():
    documents = [f"{i:04d}" * 25 for i in range(1000)]
    parts = deal(documents)
    assert [len(part) for part in parts] == [800, 100, 100]
    assert sorted(document for part in parts for document in part) == documents
    steps = np.diff([int(document[:4]) for document in parts.test])
    assert np.count_nonzero(steps > 1) == 4  # five stretches from all over


def test_the_standard_library_is_a_corpus_everywhere():
    code = read_corpus("library-code", None)
    assert 2_000_000 < sum(len(document.encode()) for part in code for document in part) <= corpora.CODE_BYTES
    assert any("def " in document for document in code.test)
    assert code.fingerprint() != deal(["x"]).fingerprint()


def test_texts_of_a_folder_are_cut_at_a_line(tmp_path):
    folder = tmp_path / "text_tinyshakespeare"
    folder.mkdir()
    text = "".join(f"line {i}\n" for i in range(1000))
    (folder / "input.txt").write_text(text, encoding="utf-8")
    parts = [part[0] for part in read_corpus("tinyshakespeare", tmp_path)]
    assert "".join(parts) == text
    assert all(part.endswith("\n") for part in parts)
    assert len(parts[0]) == pytest.approx(0.8 * len(text), rel=0.01)
    with pytest.raises(FileNotFoundError, match=r"text_wikitext2/valid\.txt"):
        read_corpus("wikitext-2", None)
    with pytest.raises(ValueError, match="corpus is 'poems', expected one of wikitext-2"):
        read_corpus("poems", None)


def test_corpora_that_are_not_there_are_skipped_by_name(tmp_path, capsys):
    found = corpora.available_corpora(("wikitext-2", "library-documentation"), tmp_path)
    assert [name for name, _ in found] == ["library-documentation"]
    assert "skipped wikitext-2: " in capsys.readouterr().err


@pytest.fixture(scope="module")
def encoded():
    text = "".join(f"{i} bottles of beer on the wall, {i} bottles of beer.\n" for i in range(300))
    return encode(Corpus([text], [text[:3000]], [text[:2000], "ünï"]), vocab_size=300, length=16, windows=9)


def test_windows_predict_every_byte_once(encoded):
    whole = encode(Corpus(["ab" * 200], ["a"], ["ünï", "ab" * 50]), vocab_size=257, length=16, windows=99)
    assert count_bytes(whole.tokenizer, whole.test) == len("ünï".encode()) + 100 - 1  # the first byte is no target
    assert len(encoded.test) == 9
    assert encoded.test.dtype == np.int32
    np.testing.assert_array_equal(encoded.train[3, 0, 1:], encoded.train[3, 1, :-1])
    assert np.count_nonzero(encoded.train[:, 1] < 0) < 16


class Uniform:
    """A model that knows nothing, or is broken."""

    def __init__(self, logit):
        self.logit = logit

    def apply(self, config, params, tokens, state=None):
        logits = jnp.full((*tokens.shape, config.vocab_size), self.logit) * params["one"]
        return logits, state


def contestant(model, name="model", parameters=1):
    config = type("Config", (), {"vocab_size": 256})()
    return trials.Contestant(name, "p", model, config, parameters)


def test_bits_per_byte_are_those_of_the_uniform_distribution_at_most():
    """Eight bits a token of one byte each; padding and the end of a document stand for no byte but cost their bits."""
    byte = type("Bytes", (), {"byte_lengths": lambda self: np.array([0] + [1] * 255)})()
    windows = np.ones((5, 2, 4), np.int32)
    windows[0, 1] = [1, 1, 0, -1]
    data = corpora.Encoded(byte, windows, windows, windows)
    for logit in (0.0, np.nan):
        bits = text_quality.bits_per_byte(contestant(Uniform(logit)), {"one": jnp.ones((2,))}, data, windows)
        np.testing.assert_allclose(bits, 8 * 19 / 18, rtol=1e-6)


def test_unequal_sizes_are_refused():
    equal = [contestant(None, "transformer", 1000), contestant(None, "a", 1019)]
    trials.parameters_agree(equal, 0.02)
    with pytest.raises(ValueError, match="b p has 1,021 parameters, expected those of transformer, 1,000, within 2%"):
        trials.parameters_agree([*equal, contestant(None, "b", 1021)], 0.02)


def test_models_learn_side_by_side_as_they_do_alone(encoded):
    """The same seed and rate give the same model, whatever is trained beside it; what is learned is measured."""
    (one,) = trials.contestants(["resonance"], ["micro-32"], vocab_size=300, length=16)
    assert (one.config.context, one.config.chunk, one.config.vocab_size) == (16, 16, 300)
    both = trials.train(one, encoded.train, seeds=[0, 1], rates=[0.02, 0.001], steps=32, batch=4)
    alone = trials.train(one, encoded.train, seeds=[1], rates=[0.001], steps=32, batch=4)
    assert both.curve.shape == (2, 32)
    np.testing.assert_allclose(both.curve[1], alone.curve[0], rtol=1e-4)
    bits, hits = trials.measure(one, both.params, encoded.validation)
    assert bits.shape == hits.shape == (2, len(encoded.validation), 16)
    assert bits[0].mean() < bits[1].mean() < np.log2(300)
    assert hits[0].mean() > 0.2
    assert np.all(bits[:, encoded.validation[:, 1] < 0] == 0)


def test_unknown_models_and_presets_are_named():
    with pytest.raises(ValueError, match=r"model is 'rnn', expected one of .*resonance"):
        trials.contestants(["rnn"], ["micro-32"], vocab_size=300, length=16)
    with pytest.raises(ValueError, match="preset of resonance is 'huge', expected one of micro-32"):
        trials.contestants(["resonance"], ["huge"], vocab_size=300, length=16)


@pytest.mark.parametrize("best", [0.01, 0.0003, 0.2])
def test_the_grid_of_rates_grows_until_its_best_is_inside(best):
    asked = []

    def loss_at(rates):
        asked.append(rates)
        return [abs(np.log(rate / best)) for rate in rates]

    rate, losses = records.best_rate(loss_at, 0.01)
    assert rate == min(losses, key=losses.get)
    assert [rate for group in asked for rate in group] == list(losses)  # none twice
    if best == 0.01:
        assert len(asked) == 1
        assert rate == 0.01
    else:
        assert len(asked) == 1 + records.EXTENSIONS
        assert rate == (min(losses) if best < 0.01 else max(losses))


def test_figures_are_found_again_and_half_a_line_is_dropped(tmp_path, capsys):
    path = tmp_path / "results" / "figures.jsonl"
    first = records.Records(path)
    first.add("a", 2.0, "bits", 3.0, model="m", seed=1)
    first.add("a", 4.0, "bits", model="m", seed=2)
    assert json.loads(capsys.readouterr().out.splitlines()[0])["ratio"] == 1.5
    with path.open("a", encoding="utf-8") as file:
        file.write('{"name": "a", "val')
    again = records.Records(path)
    assert again.find(model="m", seed=1)["value"] == 2.0
    assert again.find(model="m")["value"] == 4.0  # the last
    assert again.find(model="m", seed=3) is None
    assert again.find(rate=1) is None
    again.add("b", 1.0, "bits")
    assert [json.loads(line)["name"] for line in path.read_text(encoding="utf-8").splitlines()] == ["a", "a", "b"]
    assert records.spread([1.0]) == 0
    assert records.spread([1.0, 3.0]) == pytest.approx(2**0.5)


class Trainer:
    """Stands in for the training: the best rate is 0.015, and a seed adds a thousandth."""

    def __init__(self):
        self.calls = []

    def train(self, contestant, examples, *, seeds, rates, steps, batch):
        self.calls.append((list(seeds), steps))
        losses = [2 + abs(np.log(rate / 0.015)) + 0.001 * seed for seed, rate in zip(seeds, rates, strict=True)]
        return trials.Trained({"loss": np.array(losses)}, np.zeros((len(seeds), steps)), 1.0)

    def bits_per_byte(self, contestant, params, encoded, windows):
        return params["loss"] + (0.1 if windows is encoded.test else 0)


def test_a_tuned_run_reports_the_test_part_and_is_resumed(tmp_path, encoded, monkeypatch):
    trainer, path = Trainer(), tmp_path / "r.jsonl"
    monkeypatch.setattr(text_quality, "train", trainer.train)
    monkeypatch.setattr(text_quality, "bits_per_byte", trainer.bits_per_byte)
    options = text_quality.Options(steps=4, seeds=2)
    (one,) = trials.contestants(["resonance"], ["micro-32"], vocab_size=300, length=16)

    def field(corpus="beer"):
        return text_quality.Field("beer", encoded, {"corpus": corpus}, options, records.Records(path))

    assert text_quality.chosen_rate(field(), one) == (0.03, False)
    text_quality.tune(field(), one)
    assert text_quality.chosen_rate(field(), one) == (0.015, True)
    assert trainer.calls == [([text_quality.TUNING_SEED] * 6, 2)]  # half the steps, and the best is inside the grid
    values = text_quality.run(field(), one)
    np.testing.assert_allclose(values, [2.1, 2.101])
    text_quality.summarise(field(), one, values, [2 * value for value in values])
    summary = field().records.find(name="text-quality.beer.resonance.micro-32")
    assert summary["value"] == pytest.approx(2.1005)
    assert (summary["ratio"], summary["above_peer"], summary["rate"]) == (2.0, -0.5, 0.015)
    assert summary["spread"] == pytest.approx(0.001 / 2**0.5, rel=1e-4)
    assert len(trainer.calls) == 2

    text_quality.tune(field(), one)
    assert text_quality.run(field(), one) == values
    assert len(trainer.calls) == 2  # nothing is measured twice
    text_quality.run(field("wine"), one)
    assert len(trainer.calls) == 3  # other text is another measurement
