"""Samples of a run: they are drawn from its newest checkpoint, and prompts of any length are read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atlas_jax.models import generate
from atlas_jax.training.runs import sample
from atlas_jax.training.runs.execution import execute
from atlas_jax.training.runs.run import last_state, reopen, resolve
from atlas_jax.training.runs.settings import Settings

SMALL = ("d_model=16", "layers=1", "heads=1", "feed_forward=16")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that has learnt that after a comes b and after b comes a."""
    assert jax.device_count() == 4
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("ab" * 4000)
    settings = Settings(
        model="transformer",
        preset="micro-32",
        config=SMALL,
        data=(folder / "text.txt",),
        length=16,
        batch=4,
        steps=60,
        rate=1e-2,
        evaluate_windows=4,
        devices=1,
    )
    execute(resolve(settings, folder / "out"))
    return folder / "out"


def test_what_was_learnt_is_written_after_short_and_long_prompts(trained, capsys):
    for prompt in ("a", "ab" * 30 + "a"):  # 61 tokens are more than three contexts
        given = [str(trained), "--prompt", prompt, "--tokens", "9", "--samples", "2", "--temperature", "0.1"]
        assert sample.main(given) == 0
        assert capsys.readouterr().out.split("\n\n---\n\n") == [prompt + "babababab", prompt + "babababab\n"]


def test_a_sample_is_the_library_s_and_follows_from_the_seed(trained):
    run = reopen(trained)
    options = sample.Options(trained, prompt="ab", tokens=5, temperature=3.0, top_p=None, seed=4)
    (text,) = sample.samples(run, options)
    prompt = jnp.asarray(run.tokens.tokenizer.encode_batch(["ab"])[0][None])
    found, _ = generate.generate(
        run.model, run.config, last_state(run).params, prompt, jax.random.key(4), tokens=5, temperature=3.0
    )
    assert text == run.tokens.tokenizer.decode(np.concatenate([prompt[0], found[0]]))
    assert sample.samples(run, options) == [text]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--tokens", "0"], "--tokens is 0, expected 1 or more"),
        (["--temperature", "0"], "--temperature is 0.0, expected above 0"),
        (["--top-p", "2"], "--top_p is 2.0, expected above 0 and at most 1"),
        (["--prompt", ""], "--prompt is empty"),
    ],
)
def test_bad_options_are_one_line(trained, capsys, given, expected):
    assert sample.main([str(trained), *given]) == 2
    assert f"error: {expected}" in capsys.readouterr().err


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    assert sample.main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_ctrl_c_ends_the_command_with_130_and_a_word(tmp_path, capsys, monkeypatch):
    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "reopen", interrupted)
    assert sample.main([str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"
