"""What a run advises, and in which order."""

from collections import Counter

import numpy as np
import pytest

from validation.criteria import unknown
from validation.recommend import priority, recommend
from validation.report import Dimension


def _dimension(name, value, bar):
    return Dimension(name, "?", value, "bits per token", None, None, bar, 100 * value / (value + bar), value <= bar, "")


def _advice(harm=0.0, gains=None, reference=True, counts=None):
    counts = Counter({"exact duplicate": 40}) if counts is None else counts
    dimensions = [_dimension("C1 harm", harm, 0.05), _dimension("C2 tail", 0.0, 0.05)]
    if not reference:
        dimensions = [unknown(name, "?", "bits per token", "no reference") for name in ("C1 harm", "C2 tail")]
    return recommend(dimensions, counts, sum(counts.values()), gains, 0.01, "my data.jsonl", reference)


@pytest.mark.parametrize(("points", "expected"), [(20.1, 1), (20.0, 2), (10.0, 3), (5.0, 4), (0.0, 4)])
def test_priority_follows_the_points(points, expected):
    assert priority(points) == expected


def test_a_removal_that_helps_comes_first_with_its_measured_gain():
    first, *_ = _advice(harm=0.3, gains=np.array([0.28, 0.3, 0.32]))
    assert first.action.startswith("Remove")
    assert first.priority == 1
    assert first.measured_gain == pytest.approx(0.3)
    low, high = first.measured_gain_interval
    assert 0.27 < low < 0.3 < high < 0.33
    assert "40 exact copies" in first.reason


def test_a_removal_that_does_not_help_is_not_advised():
    (only,) = _advice(gains=np.array([-0.02, 0.01, 0.02]))
    assert only.action.startswith("Keep")
    assert only.priority == 4


def test_harm_that_removal_leaves_calls_for_other_data():
    actions = [r.action for r in _advice(harm=0.5, gains=np.array([0.1, 0.1, 0.1]))]
    assert any(action.startswith("Replace") for action in actions)
    assert not any(
        a.startswith("Replace") for a in [r.action for r in _advice(harm=0.5, gains=np.array([0.5, 0.5, 0.49]))]
    )


def test_without_a_reference_the_command_to_give_one_is_ready_and_quoted():
    advice = [r for r in _advice(reference=False) if r.command]
    assert [r.command for r in advice] == ["python -m validation.cascade 'my data.jsonl' --reference TRUSTED_SAMPLE"]


def test_a_clean_run_advises_nothing():
    assert _advice(counts=Counter()) == []
