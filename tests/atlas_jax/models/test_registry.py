"""What is registered, what its sizes are, and the command that lists them."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import jax
import pytest

from atlas_jax.models import __main__ as listing
from atlas_jax.models import describe, presets, registered, registry
from atlas_jax.types import ModelConfig


def test_resonance_is_registered_with_all_its_presets():
    assert "resonance" in registered()
    config = {preset: config for name, preset, config in presets() if name == "resonance"}
    assert config == registered()["resonance"].PRESETS
    assert all(isinstance(each, ModelConfig) for each in config.values())


def test_counts_are_those_of_real_arrays():
    model = registered()["resonance"]
    config = model.PRESETS["micro-32"]
    params, state = jax.jit(lambda key: (model.init(config, key), model.init_state(config, 1)))(jax.random.key(0))
    assert describe("resonance", "micro-32") == {
        "name": "resonance",
        "preset": "micro-32",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "context": 128,
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
    }


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"model is 'resonence', expected one of .*resonance"):
        describe("resonence", "micro-32")
    with pytest.raises(ValueError, match=r"preset of resonance is 'micro', expected one of micro-32, micro-128"):
        describe("resonance", "micro")


def announce(monkeypatch, value):
    entry = EntryPoint("other", value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [entry] if group == registry.GROUP else [])


def test_a_model_that_lacks_a_part_is_refused(monkeypatch):
    announce(monkeypatch, "spectral.convolution")
    with pytest.raises(TypeError, match=r"'other'.*'spectral.convolution'.*lacks PRESETS, init, apply, step; expected"):
        registered()


def test_a_package_joins_by_its_entry_point_alone(monkeypatch):
    announce(monkeypatch, "spectral.resonance")
    assert list(registered()) == ["other"]
    assert describe("other", "micro-32")["parameters"] == 80_160


def test_the_command_lists_every_preset(capsys):
    listing.main(["--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows == [describe(name, preset) for name, preset, _ in presets()]
    listing.main([])
    shown = capsys.readouterr().out
    for row in rows:
        line = next(line for line in shown.splitlines() if line.split()[:2] == [row["name"], row["preset"]])
        assert f"{row['parameters']:,}" in line
        assert f"{row['state_bytes']:,}" in line


def test_a_narrow_terminal_cuts_no_number(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    listing.main([])
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert f"{describe('atlas', '42.6m')['parameters']:,}" in shown


def test_a_misspelt_option_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        listing.main(["--jsn"])
    assert exit_.value.code == 2
    assert "--json" in capsys.readouterr().err
