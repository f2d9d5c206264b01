import numpy as np
import pytest

from atlas_jax.data import Packed
from benchmarks import cascade_vs_torch
from validation.profiles import PROFILES
from validation.tiers import HeldOut, Variant, model_config

torch_resonance = pytest.importorskip("benchmarks.torch_resonance", reason="needs torch, see benchmarks/README.md")


@pytest.fixture(scope="module")
def work():
    profile = PROFILES["laptop"]
    tokens = np.random.default_rng(0).integers(0, 300, (64, profile.length + 1)).astype(np.int32)
    held_out = HeldOut(tokens[:8], np.ones((8, profile.length), bool), np.ones((1, 8, profile.length), bool), 1.0)
    return cascade_vs_torch.TierWork(
        model_config(profile.tiers[0], profile, 300),
        [Variant(0, 0, 0.03)],
        [Packed(tokens, np.zeros_like(tokens))],
        held_out,
        80,
        profile,
    )


def test_both_sides_take_the_same_steps(work):
    differences = cascade_vs_torch.check_same_mathematics(work)
    assert set(differences) == {"gradient", "loss", "update"}
    assert max(differences.values()) < 1e-6


@pytest.mark.parametrize(("name", "value"), [("EMBEDDING_SCALE", 59.9), ("EPSILON", 1e-2)])
def test_another_mathematics_is_refused(work, monkeypatch, name, value):
    monkeypatch.setattr(torch_resonance, name, value)
    with pytest.raises(ValueError, match="not the same mathematics at width 32"):
        cascade_vs_torch.check_same_mathematics(work)


def test_the_peer_runs_every_branch_and_a_share_says_so(work):
    params = cascade_vs_torch.initial_parameters(work.config, [0])
    seconds, losses, share = cascade_vs_torch.run_torch(work, params, 0.5)
    assert share == 0.5
    assert seconds > 0
    assert losses[0] < np.log2(300) + 1
