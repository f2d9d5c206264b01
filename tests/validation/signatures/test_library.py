"""Signed records: merge laws, tampering, files, and the key."""

import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.signatures import FAMILIES, Library, Outcome, Provenance, Signature, SignatureError, merge, read_key
from validation.signatures.library import Use, load, save
from validation.signatures.record import VERDICTS, of_json, write_key

KEY, OTHER = b"k" * 32, b"o" * 32


def record(name=0, *, family="healthy", verdict="unknown", day="2026-01-01", by="me", features=None, harm=None):
    where = Provenance(by, "0.1.0", f"{name:064x}", "a source", 10, day)
    return Signature(features or {"a": 1.0}, family, where, Outcome(verdict, harm))


RECORDS = st.builds(
    record,
    name=st.integers(0, 3),
    family=st.sampled_from(FAMILIES),
    verdict=st.sampled_from(VERDICTS),
    day=st.sampled_from(["2026-01-01", "2026-02-01"]),
    features=st.dictionaries(st.sampled_from("abc"), st.floats(allow_nan=False, allow_infinity=False), min_size=1),
    harm=st.none() | st.floats(-1, 1),
)
LIBRARIES = st.builds(
    lambda records, uses, clock: Library({one.id: one for one in records}, uses, clock),
    st.lists(RECORDS, max_size=5),
    st.dictionaries(
        st.sampled_from([f"{n:064x}" for n in range(4)]), st.builds(Use, st.integers(0, 9), st.floats(0, 16))
    ),
    st.integers(0, 9),
)


def content(library):
    return sorted(one.digest() for one in library.records.values()), dict(library.uses), library.clock


@given(a=LIBRARIES, b=LIBRARIES, c=LIBRARIES)
def test_merging_is_commutative_associative_and_idempotent(a, b, c):
    assert content(merge(a, b)[0]) == content(merge(b, a)[0])
    assert content(merge(merge(a, b)[0], c)[0]) == content(merge(a, merge(b, c)[0])[0])
    whole = merge(a, b)[0]
    for part in (a, b, whole):
        assert content(merge(whole, part)[0]) == content(whole)
    assert not merge(a, a)[1]


def test_what_is_known_stays_and_what_gave_way_is_named():
    old, new = record(verdict="collapse", by="a lab"), record(verdict="unknown", day="2026-03-01", by="a guess")
    both, conflicts = merge(Library({new.id: new}), Library({old.id: old}))
    assert list(both.records.values()) == [old]
    assert conflicts == [
        "000000000000 (a source): kept healthy, collapse of 2026-01-01 by a lab, not healthy, unknown of 2026-03-01 by a guess"
    ]
    later = record(verdict="no collapse", day="2026-02-01")
    assert list(both.add(later).records.values()) == [later]


@given(one=RECORDS)
def test_a_record_survives_its_file_and_only_with_its_key(one):
    stored = json.loads(json.dumps(one.as_json(KEY)))
    assert of_json(stored, KEY) == one
    with pytest.raises(SignatureError, match="its tag does not fit"):
        of_json(stored, OTHER)


def leaves(value, path=()):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path, value


@given(one=RECORDS, data=st.data())
def test_no_field_can_be_changed_added_or_left_out(one, data):
    stored = json.loads(json.dumps(one.as_json(KEY)))
    path, value = data.draw(st.sampled_from(list(leaves(stored))))
    inner = stored
    for name in path[:-1]:
        inner = inner[name]
    how = data.draw(st.sampled_from(["change", "drop", "add"]))
    if how == "change":
        inner[path[-1]] = value + 1 if isinstance(value, int | float) else "x" if value is None else value + "0"
        if inner[path[-1]] == value:  # a number so large that 1 is nothing beside it
            inner[path[-1]] = 0.5
    elif how == "drop":
        del inner[path[-1]]
    else:
        inner["new"] = 1.0
    with pytest.raises(SignatureError):
        of_json(stored, KEY)


def test_forged_and_unsigned_records_are_named(tmp_path):
    path = tmp_path / "library.json"
    save(Library({one.id: one for one in (record(1), record(2, family="drift"))}), path, KEY)
    whole = json.loads(path.read_text())
    whole["records"][1]["family"] = "healthy"
    path.write_text(json.dumps(whole))
    with pytest.raises(SignatureError, match=r"library.json: record 2: 0{12} \(healthy\): its tag does not fit"):
        load(path, KEY)
    del whole["records"][1]["tag"]
    path.write_text(json.dumps(whole))
    with pytest.raises(
        SignatureError, match="record 2: tag is 'None', expected a signature: unsigned records are refused"
    ):
        load(path, KEY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a library of signatures"),
        ("[]", "format 'list', expected a library of format 1"),
        ('{"format": 2}', "format 2, expected"),
        ("[" * 100_000, "not a library of signatures"),
        (
            '{"format": 1, "records": [], "served": {"uses": {"a": 5}, "clock": 0, "tag": "x"}}',
            "served.uses holds 5 for 'a', expected a clock and an importance",
        ),
        ('{"format": 1, "records": [NaN]}', "NaN is no number of JSON"),
        ('{"format": 1, "records": []}', "expected records and served"),
        ('{"format": 1, "records": [], "served": {"uses": {}}}', "served holds uses, expected uses, clock and tag"),
        (
            '{"format": 1, "records": [], "served": {"uses": {}, "clock": 0, "tag": "x"}}',
            "served: its tag does not fit",
        ),
    ],
)
def test_files_that_are_no_library(tmp_path, text, message):
    path = tmp_path / "library.json"
    path.write_text(text)
    with pytest.raises(SignatureError, match=message):
        load(path, KEY)


def test_uses_are_kept_and_signed(tmp_path):
    path = tmp_path / "library.json"
    library = Library({record(1).id: record(1)}, {record(1).id: Use(3, 2.0)}, 4)
    save(library, path, KEY)
    assert load(path, KEY) == library
    changed = json.loads(path.read_text())
    changed["served"]["clock"] = 9
    path.write_text(json.dumps(changed))
    with pytest.raises(SignatureError, match="served: its tag does not fit"):
        load(path, KEY)


def test_a_write_that_fails_leaves_the_old_library(tmp_path, monkeypatch):
    path = tmp_path / "library.json"
    save(Library({record(1).id: record(1)}), path, KEY)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SignatureError, match="No space left on device; the library is as it was"):
        save(Library(), path, KEY)
    assert len(load(path, KEY).records) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["library.json"]


def test_removal_by_the_beginning_of_a_fingerprint():
    library = Library({one.id: one for one in (record(1), record(16))})
    assert list(library.remove(f"{1:064x}").records) == [f"{16:064x}"]
    with pytest.raises(SignatureError, match="'00': 2 records have a fingerprint that begins so, expected 1"):
        library.remove("00")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "odd"}, "family is 'odd', expected one of drift"),
        ({"verdict": "maybe"}, "outcome.verdict is 'maybe'"),
        ({"features": {"a": float("nan")}}, "features.a is 'nan', expected a finite number"),
        ({"day": "tomorrow"}, "provenance.date is 'tomorrow'"),
    ],
)
def test_records_that_mean_nothing_are_refused(change, message):
    with pytest.raises(SignatureError, match=message):
        record(**change)


def test_the_key_is_private_long_and_never_told(tmp_path, monkeypatch):
    path = tmp_path / "key"
    write_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = read_key(path)
    assert len(key) == 64
    path.chmod(0o640)
    with pytest.raises(SignatureError, match="mode 640 lets others read the key; expected 600") as caught:
        read_key(path)
    assert key.decode() not in str(caught.value)
    with pytest.raises(SignatureError, match="File exists; expected a name for a new file"):
        write_key(path)
    monkeypatch.delenv("ATLAS_SIGNATURE_KEY", raising=False)
    with pytest.raises(SignatureError, match="no signing key: give --key FILE or set ATLAS_SIGNATURE_KEY"):
        read_key()
    monkeypatch.setenv("ATLAS_SIGNATURE_KEY", "short-secret")
    with pytest.raises(SignatureError, match="a key of 12 characters; expected at least 32") as caught:
        read_key()
    assert "short-secret" not in str(caught.value)
    monkeypatch.setenv("ATLAS_SIGNATURE_KEY", "x" * 32)
    assert read_key() == b"x" * 32
