"""The benchmarks of TNT against Titans and of decoding: what is equal, what the stages are, what is recorded, whose state."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.models import atlas
from benchmarks import decode_speed, tnt_speedup
from benchmarks.quality import timed_training
from benchmarks.quality.corpora import Corpus
from benchmarks.quality.timed_training import Data, Point
from benchmarks.quality.trials import LN2

TINY = replace(tnt_speedup.quick(tnt_speedup.Options()), steps=4, every=2, cap=5.0)


@pytest.fixture(autouse=True)
def _little_optimisation(monkeypatch):
    for module in (timed_training, decode_speed):
        monkeypatch.setattr(module, "jit", compiled)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def random_data():
    windows = np.random.default_rng(0).integers(0, 257, (6, 2, 64), dtype=np.int32)
    return Data(windows, windows[:3], 150, "random")


def test_titans_and_tnt_differ_in_their_memories_alone():
    found = tnt_speedup.contestants(tnt_speedup.Options())
    titans, tnt = (found[name] for name in (tnt_speedup.TITANS, tnt_speedup.TNT))
    assert abs(tnt.parameters / titans.parameters - 1) < 0.02
    assert tnt.parameters == sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda: init(tnt.config))))
    (alone,) = atlas.memories(titans.config)
    overall, local = atlas.memories(tnt.config)
    assert (alone.chunk, alone.shard) == (8, None)
    assert (overall.chunk, overall.shard, local.chunk, local.shard) == (64, None, 64, 256)
    own = {"chunks", "shard", "global_chunk", "projection", "feed_forward"}
    sizes = [{name: value for name, value in vars(one.config).items() if name not in own} for one in (titans, tnt)]
    assert sizes[0] == sizes[1]


def init(config):
    return atlas.init(config, jax.random.key(0))


def test_the_second_stage_has_the_same_parameters_and_the_small_chunk():
    data, one = random_data(), tnt_speedup.contestants(TINY)[tnt_speedup.TNT]
    training = tnt_speedup.start(one, data, TINY)
    point = training.advance(2)
    before = jax.device_get(training.state.params)
    training.set_chunks((8,))
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(training.state.params))
    assert (point.step, point.chunk, training.one.config.chunks) == (2, 16, (8,))
    small = training.evaluate()
    for chunk, bits in ((16, point.bits), (8, small)):
        logits, _ = compiled(partial(atlas.apply, replace(one.config, chunks=(chunk,))))(before, data.test[:, 0])
        loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), data.test[:, 1, :, None], axis=-1).sum()
        assert bits == pytest.approx(float(loss) / LN2 / 150, rel=1e-5)
    assert small != point.bits
    after = training.advance(1)
    assert (after.step, after.chunk, int(training.state.step)) == (3, 8, 3)
    assert after.seconds > point.seconds


class Scripted:
    """A training whose losses are written down beforehand."""

    def __init__(self, bits):
        self.left, self.steps, self.chunk, self.curve = list(bits), 0, 64, []

    def advance(self, steps):
        self.steps += steps
        self.curve.append(Point(self.steps, float(self.steps), self.left.pop(0), self.chunk))
        return self.curve[-1]

    def set_chunks(self, chunks):
        (self.chunk,) = chunks

    def evaluate(self):
        return 9.0


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ([3, 2, 1.5], [(20, 64), (40, 64), (42, 8)]),
        ([3, 2, 2.5, 1.9], [(20, 64), (40, 64), (42, 8), (62, 8)]),
        ([3, 2, 2.5, 2.4, 2.3, 2.2], [(20, 64), (40, 64), (42, 8), (62, 8), (82, 8), (100, 8)]),
        ([3] * 6, [(20, 64), (40, 64), (60, 64), (80, 64), (95, 64), (100, 8)]),
    ],
)
def test_stages_end_at_the_target_or_the_cap(bits, expected, monkeypatch):
    """The second takes 1/20 of all steps, more where the loss is not there yet."""
    monkeypatch.setattr(tnt_speedup, "start", lambda *args: Scripted(bits))
    options = tnt_speedup.Options(steps=50, cap=2.0, every=20)
    training, before = tnt_speedup.train_tnt(None, None, options, 2.0)
    assert [(point.step, point.chunk) for point in training.curve] == expected
    assert before == 9.0


def test_both_sides_are_recorded_whole_and_not_trained_again(tmp_path, monkeypatch):
    text = "".join(f"{i} bottles of beer on the wall, {i} bottles of beer.\n" for i in range(300))
    monkeypatch.setattr(tnt_speedup, "read_corpus", lambda name, data: Corpus([text], [text[9:]], [text[99:]]))
    options = replace(TINY, results=tmp_path / "tnt.jsonl")
    tnt_speedup.main(options)
    titans, tnt, both, first = lines(options.results)
    assert [point[0] for point in titans["curve"]] == [2, 4]
    assert titans["value"] == pytest.approx(titans["curve"][-1][2], abs=1e-4)
    assert [stage["chunk"] for stage in tnt["stages"]] == [16, 8]
    assert sum(stage["steps"] for stage in tnt["stages"]) == tnt["curve"][-1][0]
    for side in (titans, tnt):
        assert side["tokens"] == side["curve"][-1][0] * 2 * 64
        assert side["tokens_per_second"] == pytest.approx(side["tokens"] / side["seconds"], rel=1e-3)
        assert side["compile_seconds"] > 0
        assert np.all(np.diff([point[1] for point in side["curve"]]) > 0)
    assert tnt["parameters"] == pytest.approx(titans["parameters"], rel=0.02)
    assert both["value"] == tnt["curve"][-1][1]
    assert first["value"] < both["value"]
    monkeypatch.setattr(tnt_speedup, "start", None)
    tnt_speedup.main(options)
    assert [line["name"] for line in lines(options.results)[4:]] == [both["name"], first["name"]]


def test_not_reaching_the_loss_is_said_and_has_no_ratio(tmp_path):
    records = tnt_speedup.Records(tmp_path / "tnt.jsonl")
    titans = {"curve": [[10, 1.0, 3.0, 8], [20, 2.0, 1.9, 8], [30, 3.0, 2.0, 8]]}
    tnt = {"curve": [[10, 0.25, 2.5, 64], [20, 0.5, 2.0, 64], [21, 0.6, 2.1, 8]]}
    tnt_speedup.compare(records, titans, tnt, {"local_chunk": 64})
    both, first = lines(tmp_path / "tnt.jsonl")
    assert (both["reached"], both["peer"], both["ratio"]) == (False, None, None)
    assert "did not reach" in both["verdict"]
    assert (first["reached"], first["value"], first["peer"], first["ratio"]) == (True, 0.5, 2.0, 4.0)


@pytest.mark.parametrize("preset", decode_speed.Options().presets)
def test_a_preset_and_its_transformer_are_of_one_size(preset):
    for context in (128, 8192):
        theirs, ours = decode_speed.contestants(preset, context, 128)
        assert theirs.parameters == pytest.approx(ours.parameters, rel=0.02)
        assert theirs.config.context == context
        for name in ("vocab_size", "d_model", "layers", "heads"):
            assert getattr(theirs.config, name) == getattr(ours.config, name)
        assert replace(ours.config, tied=True, context=1) == replace(atlas.PRESETS[preset], context=1)


@pytest.mark.parametrize("side", [0, 1])
def test_the_state_that_is_decoded_from_is_that_of_apply(side):
    """Read in pieces, copied: the next logits of every sequence are those of the whole text read at once."""
    one = decode_speed.contestants("micro-tnt", 48, 16)[side]
    whole = one._replace(config=replace(one.config, context=48))
    params = compiled(partial(one.model.init, one.config))(jax.random.key(0))
    text = decode_speed.random_tokens(one, 1, 41)
    state = one.model.init_state(one.config, 1)
    state = decode_speed.prefill(decode_speed.reader(one), params, text[:, :32], state, 16)
    logits, expected = compiled(partial(whole.model.apply, whole.config))(params, text)
    batch = decode_speed.copies(one, state, 3)
    assert sum(x.size for x in jax.tree.leaves(batch)) > 2.9 * sum(x.size for x in jax.tree.leaves(state))
    step = compiled(partial(one.model.step, one.config), donate_argnums=2)
    for t in range(32, 41):
        found, batch = step(params, jnp.repeat(text[:, t], 3), batch)
        np.testing.assert_allclose(found, jnp.repeat(logits[:, t], 3, axis=0), atol=2e-5)
    expected = decode_speed.copies(one, expected, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), batch, expected)


def test_decoding_is_recorded_whole(tmp_path):
    options = decode_speed.Options(
        presets=("micro",), contexts=(16, 32), batches=(1, 2), piece=16, tokens=4, results=tmp_path / "decode.jsonl"
    )
    decode_speed.main(options)
    *timings, growth_of_one, growth_of_two = lines(options.results)
    found = {(line["model"], line["context"], line["batch"]): line for line in timings}
    assert len(found) == len(timings) == 8
    for (model, context, batch), line in found.items():
        assert line["tokens_per_second"] == pytest.approx(1000 * batch / line["value"], rel=1e-4)
        assert line["tokens_timed"] == 4
        if model == decode_speed.OURS:
            assert line["peer"] == found[decode_speed.PEER, context, batch]["value"]
            assert line["state_bytes"] == found[model, 16, batch]["state_bytes"]
        else:
            assert line["state_bytes"] == 4 * batch * 2 * (context - 1) * (2 * 32 + 1)
    for batch, line in ((1, growth_of_one), (2, growth_of_two)):
        first, last = (found[decode_speed.OURS, context, batch]["value"] for context in (16, 32))
        assert line["value"] == pytest.approx(last / first, rel=1e-4)


def test_a_slow_model_is_timed_on_few_tokens_and_not_on_the_first(monkeypatch):
    clock = iter(float(second) for second in [0, 90, 90, 91, 91, 93, 93, 94, 94, 99, 99, 100])
    monkeypatch.setattr(decode_speed.time, "perf_counter", lambda: next(clock))
    tokens = np.zeros((20, 1), np.int32)
    found = decode_speed.milliseconds(lambda params, token, state: (token, state), None, (), tokens, 5.0)
    assert found == (2000, pytest.approx(8000 / 3), 5000, 3)


def test_a_context_that_is_no_whole_number_of_pieces_is_refused():
    with pytest.raises(ValueError, match="contexts has 100, expected multiples of piece = 64"):
        decode_speed.main(decode_speed.Options(contexts=(100,), piece=64))
