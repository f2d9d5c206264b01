"""`validate`: what the command line does, as one call."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from atlas_jax.data import Tokenizer, load_tokenizer
from atlas_jax.distributed.mesh import accelerator_memory, compilation_cache, use_host_devices
from validation.assemble import Request
from validation.datasets import Dataset, DatasetError, open_dataset, open_table
from validation.prescreen import PreScreen, PreScreenError, prescreen
from validation.profile import profile as profile_of
from validation.profiles import PROFILES, Profile
from validation.progress import Display
from validation.report import Report, write_report
from validation.runner import Progress, discard_state, run
from validation.signatures.library import Library, load
from validation.signatures.record import SignatureError, read_key


def validate(
    data: str | os.PathLike[str],
    *,
    reference: str | os.PathLike[str] | None = None,
    profile: str = "laptop",
    out: str | os.PathLike[str] | None = None,
    text_column: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    skip_bad_rows: bool = False,
    seed: int = 0,
    fail_above: float = 50.0,
    resume: bool = False,
    force: bool = False,
    signatures: str | os.PathLike[str] | None = None,
    signature_key: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    settings: dict[str, Any] | None = None,
) -> Report:
    """Trains 18 small models on a dataset and says whether it would collapse a model, which rows do it, what helps.

    Args:
      data: a file, folder or glob of .txt, .jsonl, .json, .csv, .tsv or .parquet files.
      reference: a trusted sample of the same kind; without it harm to real text stays unknown.
      profile: "quick", "laptop" or "workstation".
      out: folder for report.json, report.html and flagged_rows.jsonl; None keeps nothing but the returned report.
      text_column: column to read, where it is not recognised.
      tokenizer: a tokenizer.json of the user's own; else a byte-pair encoding is trained.
      skip_bad_rows: count and leave out rows that cannot be read instead of stopping.
      seed: decides every split, subsample and initialisation.
      fail_above: points of risk from which the verdict is a fail.
      resume: go on from what an interrupted run left in `out`.
      force: train on it even where the pre-screen says that it is not worth it.
      signatures: a library of signatures to compare it with before training, see `validation.signatures`; None asks none.
      signature_key: file with the key that the library is signed with; else the variable ATLAS_SIGNATURE_KEY.
      progress: told what happens; default a progress bar, or a line every ten seconds where there is no terminal.
      settings: the command line, kept in the report.

    Returns:
      The report; `report.show()` displays it in a notebook, and prints a summary elsewhere.

    Raises:
      DatasetError: data or tokenizer that cannot be read, or too little text; one line: what, where, what was expected.
      PreScreenError: the data is not worth training on, and `force` was not given; `out/prescreen.json` says why.
      SignatureError: the library of signatures cannot be used.
      ValueError: an unknown profile, or a state of another run.
    """
    with ExitStack() as stack:
        folder = Path(out) if out is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        told = progress if progress is not None else stack.enter_context(Display())
        request = make_request(
            data,
            reference=reference,
            profile=profile,
            out=folder,
            text_column=text_column,
            tokenizer=tokenizer,
            skip_bad_rows=skip_bad_rows,
            seed=seed,
            fail_above=fail_above,
            resume=resume,
            force=force,
            library=None if signatures is None else _load_library(signatures, signature_key),
            progress=told,
            settings=settings,
        )
        report = run_and_write(request, told)
        discard_state(folder)
    return report


def make_request(
    data: str | os.PathLike[str],
    *,
    reference: str | os.PathLike[str] | None,
    profile: str,
    out: Path,
    text_column: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    skip_bad_rows: bool = False,
    seed: int,
    fail_above: float,
    resume: bool,
    force: bool = False,
    library: Library | None = None,
    progress: Progress | None = None,
    settings: dict[str, Any] | None = None,
) -> Request:
    """Opens everything that a run reads, and screens the data; arguments and errors as for `validate`."""
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(PROFILES)}")
    _set_devices(PROFILES[profile])
    dataset = open_dataset(data, text_column=text_column, skip_bad_rows=skip_bad_rows)
    if progress is not None:
        progress.stage("pre-screen")
    screened = prescreen(profile_of(open_table(data, skip_bad_rows=skip_bad_rows), workers=1), library)
    if progress is not None:
        progress.finished(f"pre-screen: {screened.summary()}")
    if not screened.should_proceed and not force:
        _write_prescreen(screened, out)
        raise PreScreenError(screened)
    return Request(
        data=dataset,
        reference=None if reference is None else _open_reference(reference, text_column, skip_bad_rows),
        profile=PROFILES[profile],
        out=out,
        seed=seed,
        fail_above=fail_above,
        tokenizer=None if tokenizer is None else _load_tokenizer(tokenizer),
        resume=resume,
        prescreen=screened,
        settings=settings or {"data": str(data), "profile_name": profile, "seed": seed, "fail_above": fail_above},
    )


def run_and_write(request: Request, progress: Progress) -> Report:
    """Runs a request on all devices and writes its report; what resuming needs stays in `out/state`."""
    _set_devices(request.profile)
    compilation_cache()
    report = run(request, progress)
    write_report(report, request.out)
    return report


def _set_devices(profile: Profile) -> None:
    """Before JAX runs for the first time."""
    if profile.memory is not None:
        accelerator_memory(profile.memory)
    use_host_devices()


def _write_prescreen(screened: PreScreen, out: Path) -> None:
    """What a dataset that is not trained on leaves behind."""
    out.mkdir(parents=True, exist_ok=True)
    partial = out / "prescreen.tmp"
    partial.write_text(json.dumps(screened.as_dict(), indent=2, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    partial.replace(out / "prescreen.json")


def _load_library(path: str | os.PathLike[str], key: str | os.PathLike[str] | None) -> Library:
    """The library of signatures, which must be there."""
    if not Path(path).exists():
        raise SignatureError(f"{os.fspath(path)}: no such file; expected a library of signatures")
    return load(Path(path), read_key(None if key is None else Path(key)))


def _open_reference(path: str | os.PathLike[str], text_column: str | None, skip_bad_rows: bool) -> Dataset:
    """The reference; an error in it says that it is the reference's."""
    try:
        return open_dataset(path, text_column=text_column, skip_bad_rows=skip_bad_rows)
    except DatasetError as error:
        raise DatasetError(f"reference: {error}") from error


def _load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    try:
        return load_tokenizer(path)
    except ValueError as error:
        raise DatasetError(str(error)) from error
