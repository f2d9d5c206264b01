"""The benchmarks of memories: what their examples ask, what makes the models equal, what is recorded and resumed."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.models import transformer
from benchmarks import memory_quality
from benchmarks.quality import lineup, mad, memory_tasks, needle, state_tracking, transformers, trials
from benchmarks.quality.corpora import Corpus
from benchmarks.quality.records import Records


def test_parity_is_the_xor_of_all_bits_so_far():
    examples = state_tracking.parity(20, 37, seed=3)
    assert examples.shape == (20, 2, 37)
    assert examples.dtype == np.int32
    np.testing.assert_array_equal(np.bitwise_xor.accumulate(examples[:, 0], axis=1), examples[:, 1])
    assert 0.4 < examples[:, 0].mean() < 0.6


def matrix(permutation):
    return np.eye(5, dtype=int)[:, state_tracking.PERMUTATIONS[permutation]].T


def test_s5_is_the_product_of_the_matrices_so_far():
    """The matrix of p has p(x) in row x; later ones stand on the right of row vectors."""
    seen = set()
    for moves, states in state_tracking.s5(8, 25, seed=0):
        for t in range(25):
            product = reduce(np.matmul, [matrix(move) for move in moves[: t + 1]])
            np.testing.assert_array_equal(product, matrix(states[t]))
        seen |= set(states.tolist())
    assert len(seen) > 60


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0, None])
def test_the_needle_asked_for_is_read_back_at_its_depth(depth):
    haystack = np.random.default_rng(0).integers(0, 50, 5000)
    examples = needle.needles(haystack, 30, 128, depth, 50, seed=1, key=2, value=3)
    hay, gaps = 128 - 4 * 6 - 5, []
    for inputs, targets in examples:
        (marks,) = np.nonzero(inputs == 50)
        assert len(marks) == 5  # four needles and the question
        asked = inputs[marks[-1] + 1 : marks[-1] + 3]
        (at,) = (mark for mark in marks[:-1] if inputs[mark + 1] == asked[0])  # one needle alone
        np.testing.assert_array_equal(inputs[at + 1 : at + 3], asked)
        np.testing.assert_array_equal(inputs[at + 3 : at + 6], targets[-3:])
        np.testing.assert_array_equal(inputs[-2:], targets[-3:-1])  # tokens of the answer before the last are given
        assert np.all(targets[:-3] == -1)
        assert marks[-1] == 128 - 5
        drawn = np.delete(inputs, [mark + i for mark in marks[:-1] for i in range(6)])[:hay]
        assert np.any(np.all(np.lib.stride_tricks.sliding_window_view(haystack, hay) == drawn, axis=1))
        gaps.append(at - 6 * np.sum(marks[:-1] < at))
    if depth is None:
        assert len(set(gaps)) > 15
    else:
        assert set(gaps) == {round(depth * hay)}


def test_several_needles_are_asked_for_one_after_the_other():
    haystack = np.random.default_rng(0).integers(0, 50, 5000)
    for inputs, targets in needle.needles(haystack, 20, 96, 0.5, 50, seed=1, value=2, questions=3):
        body = 96 - 3 * 4 + 1
        (marks,) = np.nonzero(inputs[:body] == 50)
        value_of = {inputs[mark + 1]: inputs[mark + 2 : mark + 4].tolist() for mark in marks}
        assert len(value_of) == 4
        hay = body - 4 * 4
        asked = [body + 4 * i for i in range(3)]
        np.testing.assert_array_equal(inputs[asked], 50)
        first = marks[[inputs[mark + 1] for mark in marks].index(inputs[asked[0] + 1])]
        assert first - 4 * np.sum(marks < first) == round(0.5 * hay)
        expected = np.full(96, -1)
        for at in asked:
            expected[at + 1 : at + 3] = value_of[inputs[at + 1]]
        np.testing.assert_array_equal(targets, expected)


def test_an_inner_rate_is_that_of_all_memories_but_delta():
    names = ("titans", "muon", "delta", "window")
    found = lineup.lineup(names, vocab_size=20, longest=64, inner_rate=0.2)
    assert {one.name: getattr(one.config, "rate", None) for one in found} == {
        "titans": 0.2,
        "muon": 0.2,
        "delta": 1.0,
        "window": None,
    }


def test_facts_are_the_same_in_all_examples_and_never_shown():
    first, second = (mad.memorisation(200, 16, 32, seed=seed) for seed in (0, 1))
    assert np.any(first != second)
    told = {}
    for inputs, targets in np.concatenate([first, second]):
        assert np.all(inputs[1::2] == 32)
        assert np.all(targets[::2] == -1)
        for key, value in zip(inputs[::2].tolist(), targets[1::2].tolist(), strict=True):
            assert told.setdefault(key, value) == value
    assert sorted(told) == list(range(16))
    assert sorted(told.values()) == list(range(16, 32))


def test_compression_asks_for_all_but_the_last_token():
    inputs, targets = mad.compression(20, 16, 32, seed=0).swapaxes(0, 1)
    np.testing.assert_array_equal(inputs[:, :-1], targets[:, :-1])
    assert set(inputs[:, -1]) == {16}
    assert set(targets[:, -1]) == {-1}
    assert set(inputs[:, :-1].ravel()) == set(range(16))


def test_copied_symbols_are_those_among_the_noise_in_order():
    examples = mad.selective_copying(50, 8, 64, 10, seed=0)
    places = set()
    for inputs, targets in examples:
        (where,) = np.nonzero(inputs < 10)
        assert len(where) == 8
        np.testing.assert_array_equal(targets[56:], inputs[where])
        assert np.all(targets[:56] == -1)
        assert np.all(inputs[56:] == 10 + mad.NOISE)
        noise = np.delete(inputs[:56], where)
        assert noise.min() >= 10
        assert noise.max() < 10 + mad.NOISE
        places |= set(where.tolist())
    assert places == set(range(56))


@pytest.mark.parametrize("widest", [1, 3])
def test_fuzzy_recall_asks_for_the_value_of_every_phrase_seen_before(widest):
    widths = set()
    for inputs, targets in mad.fuzzy_recall(40, widest, 128, 16, seed=0):
        is_key = inputs < 8
        starts = np.flatnonzero(is_key & ~np.concatenate([[False], is_key[:-1]]))
        known, expected = {}, np.full(128, -1)
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            pair = inputs[start:end].tolist()
            key = tuple(token for token in pair if token < 8)
            if end is None:  # may be cut
                expected[start:] = targets[start:]
                break
            value = tuple(pair[len(key) :])
            widths |= {len(key), len(value)}
            if key in known:
                assert known[key] == value
                expected[start + len(key) - 1 : end - 1] = value
            known[key] = value
        np.testing.assert_array_equal(targets, expected)
        assert len(known) == 4
        assert np.count_nonzero(targets >= 0) > 20
    assert widths == set(range(1, widest + 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: needle.needles(np.arange(99), 1, 50, 1.5, 99, seed=0), "depth is 1.5, expected 0 to 1 or None"),
        (lambda: needle.needles(np.arange(99), 1, 19, 0.5, 99, seed=0), "length is 19, expected at least 20 for 4"),
        (lambda: needle.needles(np.arange(9), 1, 50, 0.5, 99, seed=0), "haystack has 9 tokens, expected at least 31"),
        (lambda: needle.needles(np.arange(99), 1, 50, 0.5, 3, seed=0), "vocab_size is 3, expected at least 4"),
        (lambda: mad.memorisation(1, 4, 7, seed=0), "length is 7, expected an even number"),
        (lambda: mad.selective_copying(1, 9, 16, 4, seed=0), "copied is 9, expected at most length / 2 = 8"),
        (lambda: mad.fuzzy_recall(1, 2, 16, 6, seed=0), "vocab_size is 6, expected at least 2 pairs = 8"),
        (lambda: memory_tasks.open_task("poetry", 64), "task is 'poetry', expected one of mqar, recall"),
        (lambda: lineup.lineup(["rnn"], vocab_size=9, longest=64), "model is 'rnn', expected one of titans"),
    ],
)
def test_impossible_examples_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", memory_tasks.TASKS)
def test_a_task_draws_what_its_models_can_read(name, monkeypatch):
    """Parts differ, equal arguments draw equal examples, and no token is beyond the vocabulary or the context."""
    text = "".join(f"{i} bottles of beer on the wall, {i} bottles of beer.\n" for i in range(300))
    monkeypatch.setattr(memory_tasks, "read_corpus", lambda name, data: Corpus([text], [text[9:]], [text[99:]]))
    monkeypatch.setattr(memory_tasks, "CORPUS_TOKENS", 300)
    task = memory_tasks.open_task(name, 64)
    training = task.training(10, memory_tasks.TRAINING)
    np.testing.assert_array_equal(training, task.training(10, memory_tasks.TRAINING))
    assert len(training) >= 10
    assert set(task.tuned) <= set(task.levels)
    lengths = set()
    for level, make in task.levels.items():
        examples = make(10, memory_tasks.TEST)
        assert np.any(examples != make(10, memory_tasks.VALIDATION))
        assert examples.max() < task.vocab_size
        assert np.all(np.any(examples[:, 1] >= 0, axis=1))
        assert (examples.shape[2] == training.shape[2]) or level not in task.tuned
        lengths.add(examples.shape[2])
    assert max(lengths) == task.longest


def test_models_are_of_one_size_and_the_feed_forward_makes_them_so():
    found = lineup.lineup(tuple(lineup.KINDS), vocab_size=512, longest=256, chunks=(64,))
    assert found[0].name == lineup.EVERYTHING
    trials.parameters_agree([contestant._replace(preset="any") for contestant in found], memory_quality.EQUAL)
    assert [one.preset for one in found if one.name in ("delta", "muon", "window")] == ["one-size"] * 3
    assert {one.name: one.config.rate for one in found if "delta" in one.name} == {"delta": 1.0, "delta-negative": 2.0}
    assert all(one.config.chunks == (64,) for one in found if one.preset == "chunk-64")
    state = {(one.name, one.preset): lineup.state_bytes(one) for one in found}
    everything = state.pop((lineup.EVERYTHING, "one-size"))
    assert everything == 4 * (lineup.LAYERS * 255 * (2 * lineup.WIDTH + 1) + 3 * lineup.WIDTH)
    middle = float(np.median(list(state.values())))
    assert all(0.85 * middle < size < 1.25 * middle for size in state.values()), state


def small(name, decoder=False):
    (one,) = lineup.lineup([name], vocab_size=20, longest=80, decoder=decoder)
    return one, one.model.init(one.config, jax.random.key(0))


@pytest.mark.parametrize("vocab_size", [2, 513])
def test_every_part_of_the_ablation_is_of_one_size(vocab_size):
    found = lineup.lineup(tuple(lineup.ABLATION), vocab_size=vocab_size, longest=64)
    assert found[0].name == lineup.FULL
    trials.parameters_agree([contestant._replace(preset="any") for contestant in found], memory_quality.EQUAL)
    settings = {one.name: dataclasses.asdict(one.config) for one in found}
    full = settings.pop(lineup.FULL)
    for name, other in settings.items():
        assert len({key for key in full if full[key] != other[key]} - {"feed_forward", "rate"}) == 1, name


def test_the_windowed_transformer_reads_on_in_pieces():
    """As one long call of its window, token by token over the pieces' ends; the convolution sees over them too."""
    one, params = small("window")
    tokens = jax.random.randint(jax.random.key(1), (2, 75), 0, 20)
    logits, _ = one.model.apply(one.config, params, tokens)
    kernel, embedded = np.asarray(params["convolution"]), np.asarray(params["embedding"][tokens])
    x = sum(kernel[i] * np.pad(embedded, ((0, 0), (i, 0), (0, 0)))[:, :75] for i in range(len(kernel)))
    state, expected = transformer.init_state(one.config, 2), []
    for start in range(0, 75, 25):
        part, state = transformer.features_of_embedded(one.config, params, jnp.asarray(x[:, start : start + 25]), state)
        expected.append(part @ params["head"])
    np.testing.assert_allclose(logits, jnp.concatenate(expected, axis=1), atol=1e-5)


@pytest.mark.parametrize("name", ["window", lineup.EVERYTHING])
def test_a_transformer_sees_what_came_before_within_its_reach(name):
    one, params = small(name)
    tokens = jax.random.randint(jax.random.key(1), (1, 80), 0, 20)
    logits = one.model.apply(one.config, params, tokens)[0]
    other = one.model.apply(one.config, params, tokens.at[0, 4].set((tokens[0, 4] + 1) % 20))[0]
    changed = np.flatnonzero(jnp.abs(logits - other).max(axis=-1)[0] > 0)
    reach = 4 + 3 + lineup.LAYERS * (one.config.context - 1)
    assert changed[0] == 4
    assert changed[-1] == (79 if name == lineup.EVERYTHING else min(79, reach))


def test_all_models_start_with_the_same_kind_of_convolution():
    for name in ("window", "titans", "delta"):
        _, params = small(name)
        (kernel,) = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if "convolution" in str(path)]
        noise = kernel - jnp.zeros_like(kernel).at[..., 0, :].set(1.0)
        assert 0.4 < noise.std() < 0.6
        assert kernel.shape[-2] == transformers.CONVOLUTION


def test_the_decoder_sees_the_last_activations_and_nothing_else():
    one, params = small("titans", decoder=True)
    tokens = jax.random.randint(jax.random.key(1), (1, 12), 0, 20)
    last = one.model.apply(one.config, params, tokens)[0]
    other = one.model.apply(one.config, params, tokens.at[0, 3].set((tokens[0, 3] + 1) % 20))[0]
    assert last.shape == (1, 12, 20)
    assert jnp.abs(last[0, 0] - last[0, 1]).max() > 0  # another place
    assert jnp.abs(last - other).max(axis=-1).min() > 0  # a change of one token goes through the last to every place


class Trainer:
    """Stands in for training and measuring: the best rate is 0.005, answers of seed 1 are right."""

    def __init__(self):
        self.calls = []

    def train(self, contestant, examples, *, seeds, rates, steps, batch):
        self.calls.append((contestant.name, list(seeds), steps))
        bits = np.array([1 + abs(np.log(rate / 0.005)) / 10 for rate in rates])
        return trials.Trained({"seed": np.array(seeds), "bits": bits}, np.zeros((len(seeds), steps)), 1.0)

    def measure(self, contestant, params, examples):
        asked = np.tile(examples[:, 1] >= 0, (len(params["seed"]), 1, 1))
        return asked * params["bits"][:, None, None], asked & (params["seed"] == 1)[:, None, None]


class ByToken:
    """Answers with the token it reads, as sure as it is told; sure[0] are two models."""

    def apply(self, config, params, tokens):
        return params["sure"] * jax.nn.one_hot(tokens, config.vocab_size), None


def test_what_is_known_is_counted_by_level_whatever_their_lengths(monkeypatch):
    def measure(contestant, params, examples):
        one = [
            trials.target_losses(contestant, {"sure": sure}, jnp.asarray(examples)) for sure in params["sure"].tolist()
        ]
        return tuple(np.stack([np.asarray(part) for part in parts]) for parts in zip(*one, strict=True))

    monkeypatch.setattr(memory_quality, "measure", measure)
    config = type("Config", (), {"vocab_size": 4})()
    model = trials.Contestant("by token", "p", ByToken(), config, 1)
    right = np.array([[[1, 2, 3], [1, 2, -1]]] * 4, np.int32)
    half = right.copy()
    half[:2, 1, 1] = 3
    longer = np.array([[[1, 2, 3, 0], [0, -1, -1, -1]]], np.int32)
    found = memory_quality.known(
        model, {"sure": np.array([50.0, 0.1])}, {"half": half, "longer": longer, "right": right}
    )
    np.testing.assert_allclose(found["right"][:2], 1)
    assert found["right"][2, 0] < 1e-6
    assert 1.8 < found["right"][2, 1] < 2
    np.testing.assert_allclose(found["half"], [[0.75] * 2, [0.5] * 2, [2, found["half"][2, 1]]])
    np.testing.assert_allclose(found["longer"], [[0] * 2, [0] * 2, [2, 2]])  # capped at the uniform distribution


def test_runs_are_tuned_recorded_with_what_is_equal_and_resumed(tmp_path, monkeypatch):
    trainer, path = Trainer(), tmp_path / "memory.jsonl"
    monkeypatch.setattr(memory_quality, "train", trainer.train)
    monkeypatch.setattr(memory_quality, "measure", trainer.measure)
    options = memory_quality.Options(
        steps=4, tune_steps=2, rates=(0.001, 0.005, 0.05), seeds=2, batch=2, length=64, tests=4
    )
    (one,) = lineup.lineup(["titans"], vocab_size=64, longest=64)

    def field(**changes):
        return memory_quality.open_field("mqar", replace(options, **changes), Records(path))

    assert memory_quality.chosen_rate(field(), one) == (0.01, False)
    memory_quality.tune(field(), one)
    assert trainer.calls == [("titans", [memory_quality.TUNING_SEED] * 3, 2)]
    assert memory_quality.chosen_rate(field(), one) == (0.005, True)
    assert memory_quality.chosen_rate(field(steps=8), one) == (0.01, False)  # another training, another rate
    assert memory_quality.chosen_rate(field(steps=8, rates_of="mqar"), one) == (0.005, True)
    results = memory_quality.run(field(), one)
    assert results == {f"pairs-{pairs}": [0, 1] for pairs in (2, 4, 8, 16)}
    line = Records(path).find(name="memory.mqar.titans.chunk-16.pairs-4.seed-1")
    assert (line["rate"], line["bits"], line["whole_examples"]) == (0.005, 1, 1)
    assert line["tokens"] == 4 * 2 * 64
    assert line["parameters"] == one.parameters
    assert line["state_bytes"] == lineup.state_bytes(one)
    memory_quality.tune(field(), one)
    assert memory_quality.run(field(), one) == results
    assert len(trainer.calls) == 2  # nothing is measured twice
    memory_quality.run(field(seeds=3), one)
    assert trainer.calls[2:] == [("titans", [2], 4)]
    memory_quality.run(field(batch=3), one)
    assert len(trainer.calls) == 4  # other batches are another measurement

    memory_quality.summarise(field(), one, results, {level: [0.25, 0.25] for level in results})
    summary = Records(path).find(name="memory.mqar.titans.chunk-16.pairs-4")
    assert (summary["value"], summary["peer"], summary["ratio"], summary["seeds"]) == (0.5, 0.25, 0.5, 2)
    memory_quality.summarise(field(), one, {"pairs-4": [0.0, 0.0]}, {"pairs-4": [0.25, 0.25]})
    assert Records(path).find(name="memory.mqar.titans.chunk-16.pairs-4")["ratio"] is None


def test_texts_are_measured_in_bits_per_byte(tmp_path, monkeypatch):
    """One bit a token, whatever the rate: bytes a token are those of the test part."""
    trainer = Trainer()
    monkeypatch.setattr(memory_quality, "train", trainer.train)
    monkeypatch.setattr(memory_quality, "measure", trainer.measure)
    text = "".join(f"{i} bottles of beer on the wall, {i} bottles of beer.\n" for i in range(300))
    monkeypatch.setattr(memory_tasks, "read_corpus", lambda name, data: Corpus([text], [text], ["beer " * 400]))
    options = memory_quality.Options(tasks=("text-wikitext-2",), steps=4, seeds=2, batch=2, tests=5)
    (field,) = memory_quality.open_fields(options, Records(tmp_path / "memory.jsonl"))
    (one,) = lineup.lineup(["titans"], vocab_size=field.task.vocab_size, longest=64)
    found = memory_quality.run(field, one)["held-out"]
    windows = field.task.levels["held-out"](5, memory_tasks.TEST)
    per_token = field.task.answer_bytes(windows) / np.sum(windows[:, 1] >= 0)
    assert 1.5 < per_token < 5.1
    np.testing.assert_allclose(found, (1 + np.log(2) / 10) / per_token, rtol=1e-5)


def test_texts_that_are_not_there_are_skipped_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ATLAS_DEV_DATA", raising=False)
    options = memory_quality.Options(tasks=("text-wikitext-2", "parity"), steps=2, batch=2)
    fields = list(memory_quality.open_fields(options, Records(tmp_path / "memory.jsonl")))
    assert [field.name for field in fields] == ["parity"]
    assert "skipped text-wikitext-2: text_wikitext2/valid.txt" in capsys.readouterr().err
