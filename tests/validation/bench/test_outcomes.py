"""What data does to models, group by group; as many cases at once as one likes."""

from itertools import pairwise

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


def test_controls_read_disjoint_samples_of_both_halves_as_large_as_a_case(monkeypatch):
    domain = tiny("text")
    read = []

    def no_training(trainee, windows, seeds, *, steps):
        read.extend(zip(windows, seeds, strict=True))
        assert steps == domain.steps
        return np.array(seeds)

    def the_seed(trainee, params, windows):
        return np.broadcast_to(params[:, None, None] * 1.0, (len(params), *domain.measured.counted.shape))

    monkeypatch.setattr(outcomes, "train", no_training)
    monkeypatch.setattr(outcomes, "measure", the_seed)
    controls = train_controls(domain, seeds=(3, 5), at_once=1)
    samples = {windows.tobytes(): documents_of(windows, domain.tokenizer.eos) for windows, _ in read}
    assert len(controls) == len(samples) >= 4
    for outcome in controls:
        assert list(outcome.losses) == ["all", *domain.measured.groups]
        for losses in outcome.losses.values():
            np.testing.assert_array_equal(losses, [3, 5])
    assert [seed for _, seed in read] == [3, 5] * len(samples)
    for windows, _ in read:
        assert len(windows) == pytest.approx(domain.tokens / LENGTH, abs=1.5)
    parts = [{tuple(document.tolist()) for document in domain.encode(part)} for part in (domain.trusted, domain.pool)]
    for part in parts:
        mine = [documents for documents in samples.values() if set(documents) <= part]
        assert len(mine) == len(samples) / 2
        together = [document for documents in mine for document in documents]
        assert len(set(together)) == len(together) > 80


def documents_of(windows, eos):
    """Whole documents that stand in the stream of windows, the first of which begins with it."""
    stream = [*windows[:, :-1].reshape(-1).tolist(), int(windows[-1, -1])]
    ends = [-1, *np.flatnonzero(np.array(stream) == eos).tolist()]
    return [tuple(stream[start + 1 : end]) for start, end in pairwise(ends)]


def test_the_label_model_is_of_the_benchmark_s_size():
    assert LABEL_MODEL.config.context == LENGTH
    assert LABEL_MODEL.config.vocab_size >= bench_world.tiny("table").tokenizer.vocab_size
