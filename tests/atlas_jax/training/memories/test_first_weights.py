"""First weights of local memories from data: the mean of what they come to without resets; shocks, by really resetting."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled

from atlas_jax.models import atlas
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.training import adamw, init_state
from atlas_jax.training.memories import first_weights
from atlas_jax.training.memories.first_weights import (
    Calibration,
    ResetShock,
    calibrate,
    main,
    reset_shock,
    settled_weights,
    with_first_weights,
)
from atlas_jax.training.runs.execution import execute
from atlas_jax.training.runs.run import last_state, reopen, resolve
from atlas_jax.training.runs.settings import Settings

CONFIG = AtlasConfig(
    vocab_size=11, d_model=8, layers=1, heads=2, feed_forward=8, context=64, chunks=(2, 4), shard=8, global_chunk=8,
    rule="delta", network="linear", projection="norm_sum", expansion=1, tied=True, rate=0.3,
)  # fmt: skip


@cache
def parameters(config=CONFIG):
    """Of a size at which memories say much."""

    def init(key):
        params = atlas.init(config, key)
        moved = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(key, p.shape), params["blocks"]["memory"])
        return {**params, "blocks": {**params["blocks"], "memory": moved}}

    return compiled(init)(jax.random.key(0))


def text(batch, length, seed=0):
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (batch, length), dtype=np.int32)


def stepped(config, params, tokens):
    """Logits and states after every token, one token at a time."""

    def one(state, token):
        logits, state = atlas.step(config, params, token, state)
        return state, (logits, state)

    return jax.lax.scan(one, atlas.init_state(config, tokens.shape[0]), jnp.asarray(tokens.T))[1]


def token_losses(config, params, tokens):
    """[b, t], from logits token by token."""
    logits, _ = compiled(partial(stepped, config))(params, tokens[:, :-1])
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens.T[1:, :, None], axis=-1)[..., 0]
    return -np.asarray(picked, np.float64).T


@pytest.mark.parametrize(
    "changes",
    [{}, pytest.param({"rule": "descent", "global_chunk": None}, marks=pytest.mark.slow)],
    ids=["delta", "descent"],
)
def test_settled_weights_are_the_mean_of_what_memories_come_to_without_resets(changes):
    """At the ends of the longest chunks, from the second shard on; the oracle goes token by token and never resets."""
    config, tokens = replace(CONFIG, **changes), text(3, 30)
    params = parameters(config)
    found = settled_weights(config, params, tokens, least=1)
    _, states = compiled(partial(stepped, replace(config, shard=64)))(params, tokens)
    ends = np.arange(11, 28, 4)  # chunks of 4 that are whole, beyond the first 8 tokens
    for new, memory in zip(found, states.blocks.memory.memories[-2:], strict=True):
        expected = jax.tree.map(lambda w: w[ends].mean(axis=(0, 2)), memory.heads.weights)
        chex.assert_trees_all_close(new, expected, rtol=1e-4, atol=1e-5)


def test_local_memories_begin_with_the_new_weights_and_nothing_else_changes():
    new = jax.tree.map(
        lambda w: w + 1.0, tuple(parameters()["blocks"]["memory"][f"memory_{i}"].weights for i in (1, 2))
    )
    changed = with_first_weights(CONFIG, parameters(), new)
    chex.assert_trees_all_equal_structs(changed, parameters())
    same, different = [], []
    for (path, old), now in zip(
        jax.tree_util.tree_leaves_with_path(parameters()), jax.tree.leaves(changed), strict=True
    ):
        (same if np.array_equal(old, now) else different).append(jax.tree_util.keystr(path))
    assert sorted(different) == [f"['blocks']['memory']['memory_{i}'].weights['value']" for i in (1, 2)]
    assert len(same) == len(jax.tree.leaves(changed)) - 2


def test_a_shock_is_the_loss_after_a_reset_against_that_of_the_same_tokens_without():
    """Against losses token by token, with resets and with a shard that never ends."""
    tokens = text(4, 30, seed=1)
    found = reset_shock(CONFIG, parameters(), tokens)
    reset, unbroken = (
        token_losses(config, parameters(), tokens[:, :25]).reshape(4, 3, 8)
        for config in (CONFIG, replace(CONFIG, shard=64))
    )
    np.testing.assert_allclose(reset[:, 0], unbroken[:, 0], rtol=1e-4)
    assert np.abs(reset[:, 1:] - unbroken[:, 1:]).max() > 1e-3, "resets are real"
    expected = {
        "after": reset[:, 1:, :4].mean(),
        "before": reset[:, :-1, 4:].mean(),
        "without_reset": unbroken[:, 1:, :4].mean(),
        "whole": reset.mean(),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-4), name
    assert found.against_unbroken == pytest.approx(found.after / found.without_reset - 1)
    assert found.against_before == pytest.approx(found.after / found.before - 1)
    assert (found.chunk, found.resets) == (4, 8)
    ratios = reset[:, 1:, :4].mean(axis=-1).ravel(), unbroken[:, 1:, :4].mean(axis=-1).ravel()
    drawn = np.random.default_rng(0).integers(0, 8, (4000, 8))
    bootstrap = (ratios[0][drawn].mean(axis=1) / ratios[1][drawn].mean(axis=1)).std()
    assert found.error == pytest.approx(bootstrap, rel=0.1)


def test_memories_that_say_nothing_have_no_shock():
    memory = parameters()["blocks"]["memory"]
    silent = {**memory, "out": jnp.zeros_like(memory["out"])}
    params = {**parameters(), "blocks": {**parameters()["blocks"], "memory": silent}}
    found = reset_shock(CONFIG, params, text(2, 17))
    assert found.against_unbroken == pytest.approx(0.0, abs=1e-6)
    assert found.error == pytest.approx(0.0, abs=1e-6)


def test_a_calibration_goes_on_with_the_weights_that_are_better():
    calibration, held_out = text(2, 20), text(2, 17, seed=2)
    found = calibrate(CONFIG, parameters(), calibration, held_out, least=24)
    new = with_first_weights(CONFIG, parameters(), settled_weights(CONFIG, parameters(), calibration, least=24))
    assert found.trained == reset_shock(CONFIG, parameters(), held_out)
    assert found.calibrated == reset_shock(CONFIG, new, held_out)
    chex.assert_trees_all_close(found.better, parameters() if found.kept else new)
    assert found.kept is (found.trained.whole <= found.calibrated.whole)
    record = json.loads(json.dumps(found.record()))
    assert record["calibrated"]["shock"] == found.calibrated.shock
    assert (record["kept"], record["passed"]) == (found.kept, found.passed)


@pytest.mark.parametrize(
    ("after", "unbroken", "before", "passed"),
    [(2.09, 2.0, 2.0, True), (2.11, 2.0, 2.2, False), (2.11, 2.2, 2.0, False), (1.0, 2.0, 2.0, True)],
)
def test_a_shock_of_five_percent_fails(after, unbroken, before, passed):
    """Against either; and only that of the weights that are gone on with counts."""
    shock = ResetShock(after, before, unbroken, 2.0, 0.01, 4, 8)
    shocked = shock._replace(after=9.0, whole=3.0)
    assert Calibration({}, shocked, shock).passed is passed
    assert Calibration({}, shock, shocked).passed is passed


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(ValueError, match=r"shard is None and chunks are .*, expected local memories with a shard"):
        reset_shock(replace(CONFIG, shard=None, global_chunk=None), parameters(), text(1, 40))
    with pytest.raises(
        ValueError, match=r"the tokens \[2, 5008\] leave 10000 after the first shard of 8, expected 10001"
    ):
        settled_weights(CONFIG, parameters(), text(2, 5008), least=10_001)
    with pytest.raises(ValueError, match=r"leave 9992 after the first shard of 8, expected 10000"):
        settled_weights(CONFIG, parameters(), text(2, 5006))
    with pytest.raises(ValueError, match="sequences are 16 tokens, expected at least two shards of 8 and 1: 17"):
        reset_shock(CONFIG, parameters(), text(2, 16))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of a few steps, whose model has shards."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("".join(f"{n} and {n * n} are numbers.\n" for n in range(1500)))
    changed = (
        "d_model=8",
        "layers=1",
        "heads=1",
        "feed_forward=8",
        "rule=delta",
        "network=linear",
        "rate=0.3",
        "shard=16",
    )
    common = {"chunks": (8,), "length": 64, "steps": 3, "batch": 4, "evaluate_windows": 8, "devices": 1}
    execute(resolve(Settings(data=(folder / "text.txt",), config=changed, **common), folder / "run"))
    return folder / "run"


def test_the_command_measures_the_last_checkpoint_of_a_run(trained, capsys, monkeypatch):
    assert main([str(trained)]) == 0
    said, record = capsys.readouterr().out, json.loads((trained / "first_weights.json").read_text())
    run = reopen(trained)
    params = last_state(run).params
    assert (record["step"], record["passed"]) == (3, True)
    held_out = run.tokens.held_out.spread(157)  # of 64 tokens
    expected = reset_shock(run.config, params, held_out).record()
    assert record["trained"] == pytest.approx(expected)
    text = run.tokens.train.spread(209)[:, :-1]  # of 64 tokens, 48 beyond the first shard: the least number for 10,000
    assert (record["calibration_tokens"], record["held_out_tokens"]) == (text.size, len(held_out) * 64)
    new = with_first_weights(run.config, params, settled_weights(run.config, params, text))
    expected = reset_shock(run.config, new, held_out).record()
    assert record["calibrated"] == pytest.approx(expected)
    better = "trained" if record["kept"] else "calibrated"
    assert f"step 3: {better} ones are better; their reset costs {record[better]['shock']:.2%}, below 5%" in said
    monkeypatch.setattr(first_weights, "MOST_SHOCK", record[better]["shock"] - 1e-9)
    assert main([str(trained)]) == 1
    assert "expected below" in capsys.readouterr().out
    assert json.loads((trained / "first_weights.json").read_text())["passed"] is False


def test_the_command_says_in_one_line_what_it_cannot_measure(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(first_weights, "last_state", lambda run: init_state({}, adamw(), jax.random.key(0)))
    text, folders = trained.parent / "text.txt", iter(range(9))

    def said(**changed):
        folder = tmp_path / str(next(folders))
        if changed:
            common = {"data": (text,), "length": 16, "steps": 1, "batch": 4, "evaluate_windows": 4}
            resolve(Settings(**{**common, **changed}), folder)
        assert main([str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "holds no run, expected the --out of one" in said()
    assert "error: first_weights: --model transformer has no memories" in said(model="transformer", preset="micro-32")
    assert "shard is None and chunks are (16,), expected local memories with a shard" in said(preset="micro")
    assert "leave 0 after the first shard of 16, expected 10000" in said(config=("shard=16",))


def test_ctrl_c_ends_the_command_with_130_and_a_word(tmp_path, capsys, monkeypatch):
    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(first_weights, "reopen", interrupted)
    assert main([str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"
