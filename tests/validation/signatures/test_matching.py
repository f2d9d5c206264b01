"""What the library says of a dataset: nearest records against plain numpy, calibration, and learning from outcomes."""

import math

import numpy as np
import pytest

from validation.signatures import Library, Outcome, Provenance, Signature
from validation.signatures.library import Use
from validation.signatures.matching import ENOUGH, learn, match


def record(number, features, verdict, source="s"):
    where = Provenance("test", "0.1.0", f"{number:064x}", source, 10, "2026-01-01")
    return Signature(features, "unclassified", where, Outcome(verdict))


def two_clouds(count, gap=3.0, seed=0):
    """Records whose feature a tells collapse from no collapse, b nothing, on four sources."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(2 * count):
        bad = number % 2 == 1
        features = {"a": float(rng.normal() + gap * bad), "b": float(1000 * rng.normal())}
        records.append(record(number, features, "collapse" if bad else "no collapse", f"source {number % 4 // 2}"))
    return Library({one.id: one for one in records})


def test_an_empty_library_and_one_side_say_so():
    assert match(Library(), {"a": 1.0})[0].note == "the library is empty"
    one = record(1, {"a": 1.0}, "collapse")
    found, _ = match(Library({one.id: one}), {"a": 1.0})
    assert (found.probability, found.evidence) == (None, None)
    assert found.note == "uncalibrated: 1 records that collapsed and 0 that did not, expected some of both"
    assert found.matches[0].similarity == 1.0


def test_few_records_are_uncalibrated_but_told():
    found, _ = match(two_clouds(ENOUGH - 1), {"a": 3.0, "b": 0.0})
    assert found.probability is None
    assert found.evidence > 0
    assert found.note.startswith(
        "uncalibrated: expected 20 records of each outcome, there are 19 that collapsed and 19"
    )


def test_matches_are_the_nearest_by_definition():
    library = two_clouds(15)
    unknown = record(99, {"a": 0.4}, "unknown")
    library = library.add(unknown)
    asked = {"a": 0.5, "b": math.nan}
    table = {one.id: [one.features.get(n, math.nan) for n in "ab"] for one in library.records.values()}
    low, centre, high = np.nanquantile(np.array(list(table.values())), (0.25, 0.5, 0.75), axis=0)

    def standard(values):
        return np.nan_to_num(np.clip((np.array(values) - centre) / ((high - low) / 1.349), -5, 5), nan=0.0)

    distances = {
        name: float(np.sqrt(np.mean((standard(values) - standard([0.5, math.nan])) ** 2)))
        for name, values in table.items()
    }
    found, _ = match(library, asked, most=4)
    assert [one.record.id for one in found.matches] == sorted(distances, key=distances.__getitem__)[:4]
    for one in found.matches:
        assert one.distance == pytest.approx(distances[one.record.id])


def test_probabilities_are_calibrated_on_data_that_the_library_never_saw():
    library = two_clouds(40)
    fresh = [one for one in two_clouds(60, seed=1).records.values()]
    told = [match(library, one.features)[0] for one in fresh]
    probabilities = np.array([one.probability for one in told])
    truth = np.array([one.outcome.verdict == "collapse" for one in fresh])
    brier = np.mean((probabilities - truth) ** 2)
    assert brier < 0.15, "chance alone is 0.25"
    assert told[0].skill == pytest.approx(1 - brier / 0.25, abs=0.2)
    assert abs(probabilities.mean() - 0.5) < 0.1


def test_a_library_that_tells_nothing_says_about_the_share():
    found, _ = match(two_clouds(60, gap=0.0), {"a": 0.0, "b": 0.0})
    assert found.probability == pytest.approx(0.5, abs=0.15)
    assert found.skill < 0.1


def test_votes_are_used_and_credited():
    library = two_clouds(10)
    _, after = match(library, {"a": 3.0, "b": 0.0})
    assert after.clock == library.clock + 1
    voted = [name for name, use in after.uses.items() if use.last == after.clock]
    assert len(voted) == 5
    new = record(500, {"a": 3.0, "b": 0.0}, "collapse")
    learnt = learn(library, new)
    assert new.id in learnt.records
    for name in voted:
        expected = 2.0 if library.records[name].outcome.verdict == "collapse" else 0.0
        assert learnt.uses[name].importance == expected
    assert set(learnt.uses) == set(voted)
    assert match(learnt, {"a": 3.0})[1].uses[voted[0]] != Use()


def test_a_record_that_is_told_again_does_not_vote_for_itself():
    library = two_clouds(10)
    for again in list(library.records.values())[:3]:
        assert learn(library, again).uses == library.uses
