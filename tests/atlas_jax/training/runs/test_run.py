"""A run learns, goes on from any step as if it had never stopped, on any number of devices, and says why it cannot."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.data import ByteTokenizer
from atlas_jax.models import registered
from atlas_jax.training import Event, NonFiniteError
from atlas_jax.training.recovery.faults import nan_gradient
from atlas_jax.training.recovery.recovery import Recovery, loop_with_recovery
from atlas_jax.training.recovery.rollback import write_rollbacks
from atlas_jax.training.runs.execution import execute, plain_step
from atlas_jax.training.runs.programs import token_losses
from atlas_jax.training.runs.run import resolve
from atlas_jax.training.runs.run_log import RunLog, Work, peak_of
from atlas_jax.training.runs.settings import Settings, SettingsError
from atlas_jax.training.runs.text_data import DataError

SMALL = ("d_model=16", "layers=1", "heads=1", "feed_forward=16")
TIMES = ("time", "tokens_per_second")


def settings(**changed):
    common = {"model": "transformer", "preset": "micro-32", "config": SMALL, "length": 16, "steps": 12, "rate": 1e-2}
    return Settings(**{**common, "devices": 1, "evaluate_every": 6, "evaluate_windows": 12, "save_every": 5, **changed})


def rows(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def numbers(state):
    return jax.device_get(state._replace(key=jax.random.key_data(state.key)))


def train(folder, **changed):
    return numbers(execute(resolve(settings(**changed), folder)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run from its first step to its last, and its folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return train(folder), folder


def same(found, folder, undisturbed):
    expected, other = undisturbed
    chex.assert_trees_all_equal(found, expected)
    for name in ("metrics.jsonl", "held_out.jsonl"):
        assert rows(folder / name) == rows(other / name)


def test_a_run_learns_from_real_text(tmp_path):
    run = resolve(settings(steps=300, length=32, evaluate_every=300, evaluate_windows=64, save_every=300), tmp_path)
    execute(run)
    windows = run.tokens.held_out.spread(64)
    share = np.bincount(windows[:, 1:].ravel()) / windows[:, 1:].size
    entropy = -np.sum(share[share > 0] * np.log2(share[share > 0]))
    first, last = rows(tmp_path / "held_out.jsonl")
    assert first["bits_per_byte"] > 7.5
    assert last["bits_per_byte"] < entropy - 0.3, "no more was learnt than how often each byte comes"
    assert first["loss"] == pytest.approx(first["bits_per_byte"] * np.log(2), rel=0.01)


def test_held_out_text_is_measured_exactly(tmp_path):
    run = resolve(settings(steps=1, evaluate_windows=11), tmp_path)  # no multiple of the batch
    state = execute(run)
    windows = run.tokens.held_out.spread(11)
    logits, _ = run.model.apply(run.config, state.params, jnp.asarray(windows[:, :-1]))
    scores = jax.nn.log_softmax(logits)
    picked = np.take_along_axis(np.asarray(scores), windows[:, 1:, None], axis=-1)
    found = rows(tmp_path / "held_out.jsonl")[-1]
    assert found["loss"] == pytest.approx(-picked.mean(), rel=1e-5)
    size = ByteTokenizer().byte_lengths()[windows[:, 1:]].sum()
    assert found["bits_per_byte"] == pytest.approx(-picked.sum() / np.log(2) / size, rel=1e-5)


def test_interrupted_and_taken_up_again_equals_undisturbed(tmp_path, undisturbed):
    seen = []
    for at in (4, 9):
        run = resolve(settings(), tmp_path)
        with pytest.raises(KeyboardInterrupt):
            execute(run, hooks=[lambda event: seen.append(event.index)], interrupted=lambda at=at: seen[-1] == at)
        assert rows(tmp_path / "metrics.jsonl")[-1]["step"] == at, "a line of a saved step is missing"
    same(train(tmp_path), tmp_path, undisturbed)
    assert seen == list(range(1, 10)), "a step was taken twice"
    told = [event["event"] for event in rows(tmp_path / "events.jsonl") if event["event"] != "compiled"]
    assert told == ["start", "interrupted", "resume", "interrupted", "resume", "finished"]


def test_killed_between_two_checkpoints_equals_undisturbed(tmp_path, undisturbed):
    def die(event):
        if event.index == 8:
            raise MemoryError("the machine")

    for _ in range(2):
        with pytest.raises(MemoryError):
            execute(resolve(settings(), tmp_path), hooks=[die])
    same(train(tmp_path), tmp_path, undisturbed)


def test_a_finished_run_is_finished(tmp_path, undisturbed):
    expected, folder = undisturbed
    shutil.copytree(folder, tmp_path / "copy")
    chex.assert_trees_all_equal(train(tmp_path / "copy"), expected)
    assert rows(tmp_path / "copy" / "metrics.jsonl") == rows(folder / "metrics.jsonl")


def test_four_devices_are_one_and_go_on_as_one(tmp_path, undisturbed):
    expected, _ = undisturbed
    run = resolve(settings(devices=4), tmp_path)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        execute(run, hooks=[lambda event: seen.append(event.index)], interrupted=lambda: seen[-1] == 6)
    found = train(tmp_path, devices=1)
    chex.assert_trees_all_close(found.params, expected.params, atol=2e-4)
    again = tmp_path / "again"
    assert resolve(settings(devices=None), again).mesh.size == 4
    with pytest.raises(KeyboardInterrupt):
        execute(
            resolve(settings(), again),
            hooks=[lambda event: seen.append(event.index)],
            interrupted=lambda: seen[-1] == 5,
        )
    chex.assert_trees_all_close(train(again, devices=4).params, expected.params, atol=2e-4)


def test_accumulated_parts_are_the_whole_batch(tmp_path):
    whole, parts = (train(tmp_path / str(n), steps=4, accumulation=n) for n in (1, 4))
    chex.assert_trees_all_close(parts.params, whole.params, atol=1e-4)
    losses = [[row["loss"] for row in rows(tmp_path / str(n) / "metrics.jsonl")] for n in (1, 4)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_muon_and_cosine_train(tmp_path):
    train(tmp_path, optimizer="muon", schedule="cosine", steps=60, evaluate_every=60)
    first, last = rows(tmp_path / "held_out.jsonl")
    assert last["loss"] < first["loss"] - 1.5
    rates = [row["learning_rate"] for row in rows(tmp_path / "metrics.jsonl")]
    assert (rates[0], rates[1]) == (0, pytest.approx(1e-2))
    assert (np.diff(rates[2:]) < 0).all()


def test_a_step_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    def broken(*arguments):
        step = plain_step(*arguments)

        def at_eight(state, batch, rate):
            after, metrics = step(state, batch, rate)
            return after, {**metrics, "loss": jnp.where(state.step == 7, jnp.nan, metrics["loss"])}

        return at_eight

    with pytest.raises(NonFiniteError, match=r"step 8: loss is nan"):
        execute(resolve(settings(steps=20), tmp_path), make_run_step=broken)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["5"]
    line = rows(tmp_path / "metrics.jsonl")[7]
    assert (line["step"], line["loss"], line["nonfinite"]) == (8, None, True)


def test_a_recovery_drives_the_same_run(tmp_path, undisturbed):
    recovery = Recovery(save_every=5, check_every=5, healthy_after=5)
    seen = []
    drive = partial(loop_with_recovery, recovery=recovery)
    run = resolve(settings(), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        execute(run, drive=drive, hooks=[lambda event: seen.append(event.index)], interrupted=lambda: seen[-1] == 7)
    found = numbers(execute(resolve(settings(), tmp_path), drive=drive))
    same(found, tmp_path, undisturbed)


def test_a_recovery_goes_back_and_passes_over_a_fault(tmp_path):
    recovery = Recovery(save_every=5, check_every=5, healthy_after=5)
    execute(
        resolve(settings(steps=30), tmp_path),
        make_run_step=lambda *arguments: nan_gradient(plain_step(*arguments), position=17),
        drive=partial(loop_with_recovery, recovery=recovery),
        restored=lambda step, extra: write_rollbacks(tmp_path / "rollbacks.jsonl", extra),
    )
    (record,) = [json.loads(line) for line in (tmp_path / "rollbacks.jsonl").read_text().splitlines()]
    assert record["restored"] < 17 < record["fired"] + 1
    assert record["first_skipped"] <= 17 <= record["last_skipped"]
    found = rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in found] == list(range(1, 31))
    assert not any(row.get("nonfinite") for row in found)
    assert [row["event"] for row in rows(tmp_path / "events.jsonl")].count("rollback") == 1


def test_figures_can_be_added_on_the_way_to_the_log(tmp_path):
    def through(log):
        return lambda event: log(event._replace(metrics={**event.metrics, "table": jnp.ones((2, 2))}))

    execute(resolve(settings(steps=3), tmp_path), through=through)
    assert [row["table"] for row in rows(tmp_path / "metrics.jsonl")] == [[[1, 1], [1, 1]]] * 3


def test_losses_are_those_of_the_logits_for_every_model(key):
    shrunk = {"atlas": {"rule": "delta", "network": "linear", "rate": 0.5, "layers": 1}}
    for name, model in registered().items():
        config = next(iter(model.PRESETS.values()))
        config = type(config)(**{**vars(config), "context": 16, "vocab_size": 64, **shrunk.get(name, {})})
        params = model.init(config, key)
        windows = jax.random.randint(key, (2, 17), 0, 64)
        found = compiled(partial(token_losses, model, config))(params, windows)
        logits, _ = compiled(partial(model.apply, config))(params, windows[:, :-1])
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), windows[:, 1:, None], axis=-1)[..., 0]
        np.testing.assert_allclose(found, -picked, rtol=1e-4, atol=1e-4, err_msg=name)


def test_another_run_in_the_folder_is_named(undisturbed):
    _, folder = undisturbed
    with pytest.raises(
        SettingsError, match=r"holds another run \(--rate was 0.01 and is 0.02; --seed was 0 and is 1\)"
    ):
        resolve(settings(rate=0.02, seed=1), folder)
    with pytest.raises(SettingsError, match=r"the data is another"):
        resolve(settings(held_out=0.2), folder)
    resolve(settings(evaluate_every=3, save_every=7), folder)


ATLAS = {"model": "atlas", "preset": "micro"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"preset": "huge"}, r"--preset is 'huge', expected one of micro-32, .* for --model transformer"),
        ({"model": "rnn"}, r"--model is 'rnn', expected one of atlas, "),
        ({"steps": 0}, r"--steps is 0, expected 1 or more"),
        ({"rate": 0.0}, r"--rate is 0.0, expected above 0"),
        ({"floor": 1.5}, r"--floor is 1.5, expected 0 to 1"),
        ({"held_out": 0.9}, r"--held-out is 0.9, expected above 0 and at most 0.5"),
        ({"warmup": 0.6, "decay": 0.6}, r"--warmup and --decay are 0.6 and 0.6, expected at most 1 together"),
        ({"batch": 8, "accumulation": 3}, r"--batch is 8, expected a multiple of --accumulation 3"),
        ({"devices": 99}, r"--devices is 99, expected at most the 4 that there are"),
        ({"devices": 3}, r"--devices is 3, expected a divisor of --batch / --accumulation = 8"),
        ({"config": ("width=3",)}, r"TransformerConfig has no width, expected one of vocab_size, d_model"),
        ({"config": ("width",)}, r"--config width: expected NAME=VALUE"),
        ({"config": ("heads=many",)}, r"--config heads=many: expected a whole number$"),
        ({"config": ("layers=1.5",)}, r"--config layers=1\.5: expected a whole number$"),
        ({"config": ("layers=true",)}, r"--config layers=true: expected a whole number$"),
        ({"config": ("context=64",)}, r"--config context=64: expected --length, which says it"),
        ({"config": ("vocab_size=9",)}, r"--config vocab_size=9: expected --vocabulary, which says it"),
        ({**ATLAS, "config": ("rate=fast",)}, r"--config rate=fast: expected a finite number$"),
        ({**ATLAS, "config": ("rate=NaN",)}, r"--config rate=NaN: expected a finite number$"),
        ({**ATLAS, "config": ("tied=1",)}, r"--config tied=1: expected true or false$"),
        ({**ATLAS, "config": ("shard=None",)}, r"--config shard=None: expected a whole number or null$"),
        ({**ATLAS, "config": ("chunks=16",)}, r"--config chunks=16: expected \[...\] of which each is a whole number$"),
        ({**ATLAS, "config": ("chunks=[1.5]",)}, r"--config chunks=\[1\.5\]: expected \[...\] of which each"),
        ({**ATLAS, "config": ("projection=3",)}, r"--config projection=3: expected a word or null$"),
        ({**ATLAS, "config": ("rule=magic",)}, r"--config rule=magic: expected one of descent, muon, lact, delta$"),
        (
            {**ATLAS, "config": ("chunks=[8]",), "chunks": (4,)},
            r"--config chunks=\[8\]: expected --chunks alone, which says it",
        ),
        (
            {**ATLAS, "config": ("dtype=float32",), "dtype": "bfloat16"},
            r"--config dtype=float32: expected --dtype alone, which says it",
        ),
        ({"config": ("heads=3",)}, r"TransformerConfig.d_model is 32, expected a multiple"),
        ({"dtype": "bfloat16"}, r"TransformerConfig has no dtype"),
        ({"chunks": (4,)}, r"TransformerConfig has no chunks"),
        ({"tokenizer": "absent.json"}, r"tokenizer absent.json: cannot be read"),
        ({"tokenizer": "bpe", "vocabulary": 100}, r"vocab_size=100, expected at least 257"),
    ],
)
def test_a_setting_that_cannot_be_is_named_and_leaves_no_folder(tmp_path, changed, message):
    with pytest.raises(SettingsError, match=message):
        resolve(settings(**changed), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_other_fields_of_the_config_are_of_their_kinds(tmp_path):
    given = ("chunks=[4,8]", "shard=16", "rate=1", "tied=true", "projection=null", "dtype=bfloat16", "block=gate")
    config = resolve(settings(**ATLAS, config=given), tmp_path).config
    assert (config.chunks, config.shard, config.rate, config.tied) == ((4, 8), 16, 1.0, True)
    assert (config.projection, config.dtype, config.block) == (None, "bfloat16", "gate")


def test_a_folder_that_cannot_be_made_is_named():
    with pytest.raises(SettingsError, match=r"/proc/none/run: the folder of the run cannot be made \(No such file"):
        resolve(settings(), Path("/proc/none/run"))


def test_a_text_too_short_for_a_window_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(DataError, match=r"a\.txt: \d tokens are to train on, expected at least 17"):
        resolve(settings(data=(tmp_path / "a.txt",)), tmp_path / "new")


def test_a_disk_too_small_for_the_checkpoints_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(10_000))
    with pytest.raises(SettingsError, match=r"0\.00 GB are free on its disk, expected 0\.\d\d for 5 checkpoints"):
        resolve(settings(), tmp_path / "new")


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(SettingsError, match=r"a is a file, expected a folder"):
        resolve(settings(), tmp_path / "a" / "b")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"config\.json: is no record of a run"):
        resolve(settings(), tmp_path)


def test_bfloat16_and_an_encoding_of_its_own_are_in_the_record(tmp_path):
    asked = settings(
        model="atlas", preset="micro", config=(), dtype="bfloat16", chunks=(4,), tokenizer="bpe", vocabulary=300
    )
    run = resolve(asked, tmp_path)
    assert (run.config.dtype, run.config.chunks, run.config.vocab_size) == ("bfloat16", (4,), run.tokens.vocabulary)
    assert run.tokens.vocabulary <= 300
    record = json.loads((tmp_path / "config.json").read_text())
    assert (record["config"]["context"], record["settings"]["rate"]) == (16, 0.01)
    again = resolve(asked, tmp_path)
    assert again.tokens.tokenizer.fingerprint() == run.tokens.tokenizer.fingerprint()


def test_the_log_tells_perplexity_and_share_of_the_peak(tmp_path):
    device = namedtuple("Device", "device_kind")
    assert peak_of([device("NVIDIA H200")] * 2) == pytest.approx(2 * 989.4e12)
    assert peak_of([device("NVIDIA H200"), device("cpu")]) is None
    seen = []
    log = RunLog(tmp_path / "m.jsonl", Work(tokens=10, operations=6.0, peak=600.0), sinks=[seen.append])
    log.begin()
    for index, loss in enumerate([2.0, 2.0, np.inf, 3.0]):
        log(Event(index + 1, None, {"loss": np.float32(loss)}))
    log.flush()
    assert [row["ppl_delta"] for row in seen[:2]] == [0, pytest.approx(0)]
    assert (seen[2]["perplexity"], seen[2]["nonfinite"]) == (None, True)
    assert seen[3]["ppl_delta"] == pytest.approx(np.e - 1, rel=1e-5), "an infinity has entered the mean"
    assert seen[0]["mfu"] == pytest.approx(seen[0]["tokens_per_second"] * 6 / 600, rel=1e-3)
    again = RunLog(tmp_path / "m.jsonl", Work(10, 6.0, None), sinks=[seen.append])
    again.resume_from(1)
    again(Event(2, None, {"loss": np.float32(3.0)}))
    again.flush()
    assert seen[-1]["ppl_delta"] == pytest.approx(np.e - 1, rel=1e-5), "the mean began anew"
    assert (seen[-1]["mfu"], len(rows(tmp_path / "m.jsonl"))) == (None, 2)
