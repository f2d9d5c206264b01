"""What data does to models, group by group; as many cases at once as one likes."""

import bench_world
import numpy as np
import pytest
from bench_world import tiny

from validation.bench import outcomes
from validation.bench.domain import HeldOut
from validation.bench.outcomes import LABEL_MODEL, by_group, train_cases, train_controls
from validation.bench.training import LENGTH, measure

pytestmark = pytest.mark.usefixtures("small")


def test_a_group_s_loss_is_the_mean_over_its_targets():
    rng = np.random.default_rng(0)
    bits = rng.uniform(0, 10, (3, 5, LENGTH)).astype(np.float32)
    counted = np.arange(5 * LENGTH).reshape(5, LENGTH) < 4 * LENGTH + 70
    groups = {"tail": counted & (rng.random((5, LENGTH)) < 0.1), "column a": counted & (rng.random((5, LENGTH)) < 0.5)}
    found = by_group(bits, HeldOut(np.zeros((5, LENGTH + 1), np.int32), counted, groups))
    assert list(found) == ["all", "tail", "column a"]
    for name, mask in {"all": counted, **groups}.items():
        for model in range(3):
            expected = sum(float(bits[model, w, t]) for w, t in np.argwhere(mask)) / mask.sum()
            assert found[name][model] == pytest.approx(expected, rel=1e-9)


def test_outcomes_are_the_losses_of_the_models_that_come_with_them():
    domain = tiny("text")
    cases = [domain.draw(domain.pool, domain.tokens, seed) for seed in (1, 2, 3)]
    together = train_cases(domain, cases, seeds=(4,), at_once=2)  # of the second program one place is filled up
    alone = [train_cases(domain, [case], seeds=(4,))[0] for case in cases]
    for one, other in zip(together, alone, strict=True):
        assert list(one.losses) == ["all", *domain.measured.groups]
        for name, loss in one.losses.items():
            np.testing.assert_allclose(loss, other.losses[name], atol=2e-3)
        bits = measure(LABEL_MODEL, one.params, domain.measured.windows)
        for name, loss in by_group(bits, domain.measured).items():
            np.testing.assert_allclose(loss, one.losses[name], atol=1e-4)
    losses = [float(outcome.losses["all"][0]) for outcome in together]
    assert len({round(loss, 4) for loss in losses}) == 3
    assert max(losses) < 5  # of 10 bits: they have learnt


def test_controls_read_samples_of_the_trusted_rows_as_large_as_a_case(monkeypatch):
    domain = tiny("text")
    read = []

    def no_training(trainee, windows, seeds, *, steps):
        read.extend(zip(windows, seeds, strict=True))
        assert steps == domain.steps
        return np.array(seeds)

    def seed_and_size(trainee, params, windows):
        return np.broadcast_to(params[:, None, None] * 1.0, (len(params), *domain.measured.counted.shape))

    monkeypatch.setattr(outcomes, "train", no_training)
    monkeypatch.setattr(outcomes, "measure", seed_and_size)
    controls = train_controls(domain, seeds=(3, 5), at_once=1)
    assert set(controls.losses) == {"all", *domain.measured.groups}
    for losses in controls.losses.values():
        np.testing.assert_array_equal(losses, [[3, 5]] * 3)  # samples by seeds
    samples = {windows.tobytes() for windows, _ in read}
    assert len(samples) == 3
    assert {seed for _, seed in read} == {3, 5}
    trusted = {tuple(document.tolist()) for document in domain.encode(domain.trusted)}
    for windows, _ in read:
        assert len(windows) == pytest.approx(domain.tokens / LENGTH, abs=1.5)
        stream = [*windows[:, :-1].reshape(-1).tolist(), int(windows[-1, -1])]
        ends = [-1, *np.flatnonzero(np.array(stream) == domain.tokenizer.eos).tolist()]
        documents = [tuple(stream[start + 1 : end]) for start, end in zip(ends[:-1], ends[1:], strict=True)]
        assert len(documents) > 40
        assert set(documents) <= trusted


def test_the_label_model_is_of_the_benchmark_s_size():
    assert LABEL_MODEL.config.context == LENGTH
    assert LABEL_MODEL.config.vocab_size >= bench_world.tiny("table").tokenizer.vocab_size
