"""Checkpoints through Orbax: on disk once acknowledged, bit-exact, verified when read."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from atlas_jax.training.whole_file import write_whole

_log = logging.getLogger(__name__)
_SUMS = "sums.json"  # the last file written: a checkpoint without it was never acknowledged
_PARTIAL = ".orbax-checkpoint-tmp"
_NEW = ".new"  # of a checkpoint that is whole, until those that it replaces are out of its way
_HEALTHY = "healthy"  # beside them, so that it goes with its checkpoint
_AMENDED = "amended.json"
_BYTES = "bytes"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message names its path."""


class LayoutError(CheckpointError):
    """A checkpoint is whole, but of another model or optimizer; the message lists what differs."""


class Checkpointer:
    """The newest `keep` checkpoints of one run and its newest healthy one, in a directory of its own; one process writes.

    A save returns once it is on disk. It is written beside and renamed, and old ones go last, so that whatever moment a
    process is killed at leaves the latest acknowledged checkpoint whole; the next save removes the remains. What only reads
    changes nothing, so that a run can be looked at while it trains.

    On disk the leaves are one vector of bytes: Orbax pays about a millisecond a leaf, and a small model with its Adam
    moments has a hundred; and of several arrays whose writes fail together it would tell all but one in the middle of the
    screen. The sidecar names what lies where; sharded arrays are gathered on this host.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 2) -> None:
        """Args: folder, made by the first save; how many checkpoints stay, 2 or more to survive a damaged one."""
        if keep < 1:
            raise ValueError(f"Checkpointer: keep={keep}, expected 1 or more")
        self._directory = Path(directory).absolute()
        self.keep = keep
        with _quiet():
            self._orbax = ocp.Checkpointer(ocp.CompositeCheckpointHandler())

    def latest_step(self) -> int | None:
        """Completed steps of the newest checkpoint; None when there is none."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """Completed steps of every acknowledged checkpoint, oldest first."""
        return sorted(self._folders())

    def healthy_steps(self) -> list[int]:
        """Those marked healthy, oldest first."""
        return [step for step, folder in sorted(self._folders().items()) if (folder / _HEALTHY).exists()]

    def mark_healthy(self, step: int) -> None:
        """Notes that training went on well after the checkpoint at `step`: that it is one to go back to.

        The newest that is marked stays, however many are saved after it. The mark goes with its checkpoint: one that is
        saved anew at the same step has to earn it again.

        Raises:
          ValueError: there is no such checkpoint.
          CheckpointError: the disk is full or not writable.
        """
        path = self._existing("mark_healthy", step)
        with _as_checkpoint_error("cannot mark", path):
            (path / _HEALTHY).touch()  # an empty file is there or not: no half of it can remain

    def amend(self, step: int, extra: dict[str, Any]) -> None:
        """Replaces the `extra` of the checkpoint at `step`; whenever a process is killed, one of the two is there whole.

        Raises:
          ValueError: there is no such checkpoint.
          CheckpointError: the disk is full or not writable; the one before stays.
        """
        path = self._existing("amend", step)
        text = json.dumps(extra)
        with _as_checkpoint_error("cannot amend", path):
            write_whole(path / _AMENDED, f"{zlib.crc32(text.encode())}\n{text}")

    def abandon_after(self, step: int) -> None:
        """Removes the checkpoints later than `step`, newest first: they belong to a course that is given up."""
        with _as_checkpoint_error("cannot remove checkpoints from", self._directory):
            for later in reversed([s for s in self.steps() if s > step]):
                self._discard(later)

    def save(self, step: int, state: PyTree, extra: dict[str, Any]) -> None:
        """Writes a checkpoint and returns when it is complete.

        Checkpoints at `step` or later belong to an abandoned course (a rollback, a damaged file): they go once this one is
        whole.

        Args:
          step: completed steps, the checkpoint's name.
          state: arrays of any dtype, typed PRNG keys and sharded arrays included.
          extra: JSON: the resolved configuration, the data position, whatever is not an array.

        Raises:
          CheckpointError: the disk is full or not writable; all checkpoints are as they were.
        """
        path = self._directory / str(step)
        new = path.with_name(path.name + _NEW)
        sidecar = {"layout": _layout(state), "keys": _key_kinds(state), "extra": extra}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave({_BYTES: _bytes(state)}), sidecar=ocp.args.JsonSave(sidecar)
        )
        try:
            with _quiet(), _as_checkpoint_error("cannot save", path):
                self._remove_partial()
                self._orbax.save(new, args=items)
                self._acknowledge(new)
                for later in reversed([s for s in self.steps() if s >= step and (self._directory / str(s)).exists()]):
                    self._discard(later)
                new.rename(path)
                for old in self._superseded():
                    self._discard(old)
        except CheckpointError:
            self._remove_partial()  # what little was written would keep a full disk full
            raise

    def restore(self, template: PyTree, step: int | None = None) -> tuple[PyTree, dict[str, Any], int] | None:
        """Reads the newest readable checkpoint, or the one at `step`.

        Args:
          template: state of the same structure, shapes and dtypes: arrays (donated ones too) or
            `jax.ShapeDtypeStruct`s. Each leaf returns with its template's sharding, if that has one.
          step: a particular checkpoint; without it a damaged one is passed over for the one before, with a warning.

        Returns:
          (state, extra, step), or None when the directory holds no checkpoint.

        Raises:
          LayoutError: the checkpoint is of a different structure, shape or dtype; the message lists what differs.
          CheckpointError: none can be read, or not the one at `step`.
        """
        if step is not None:
            return self._read(template, step)
        steps = self.steps()
        for candidate in reversed(steps):
            try:
                return self._read(template, candidate)
            except LayoutError:
                raise
            except CheckpointError as error:
                _log.warning("%s; going back to the checkpoint before it", error)
        if steps:
            raise CheckpointError(
                f"{self._directory}: none of the checkpoints {steps} can be read; remove them to start anew"
            )
        return None

    def close(self) -> None:
        """Releases Orbax's threads."""
        with _quiet():
            self._orbax.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, template: PyTree, step: int) -> tuple[PyTree, dict[str, Any], int]:
        path = self._folders().get(step, self._directory / str(step))
        with _quiet(), _as_checkpoint_error("cannot read", path):
            _check_sums(path)
            sidecar = self._orbax.restore(path, args=ocp.args.Composite(sidecar=ocp.args.JsonRestore()))["sidecar"]
            amended = _amended(path)
        _check_layout(sidecar["layout"], _layout(template), path)
        with _quiet(), _as_checkpoint_error("cannot read", path):
            wanted = ocp.args.StandardRestore({_BYTES: np.empty(_size(template), np.uint8)})
            content = self._orbax.restore(path, args=ocp.args.Composite(state=wanted))["state"][_BYTES]
        return _unpacked(content, sidecar["keys"], template), sidecar["extra"] if amended is None else amended, step

    def _existing(self, what: str, step: int) -> Path:
        if step not in self.steps():
            raise ValueError(
                f"{what}: step={step}, expected one of the checkpoints {self.steps()} in {self._directory}"
            )
        return self._folders()[step]

    def _folders(self) -> dict[int, Path]:
        """Where every acknowledged checkpoint is. A new one beside one of its step counts once that is out of the way."""
        found = {sums.parent.name: sums.parent for sums in self._directory.glob(f"[0-9]*/{_SUMS}")}
        named = [(name.removesuffix(_NEW), found[name]) for name in sorted(found, reverse=True)]  # "7.new" before "7"
        return {int(name): folder for name, folder in named if name.isdigit()}

    def _acknowledge(self, path: Path) -> None:
        """The last thing that a save writes."""
        _write_sums(path)

    def _superseded(self) -> list[int]:
        steps = self.steps()
        kept = {*steps[-self.keep :], *self.healthy_steps()[-1:]}
        return [step for step in steps if step not in kept]

    def _discard(self, step: int) -> None:
        _remove(self._folders()[step])

    def _remove_partial(self) -> None:
        """What saves that were stopped have left."""
        for new in self._directory.glob(f"[0-9]*{_NEW}"):
            path = new.with_name(new.name.removesuffix(_NEW))
            if path.name.isdigit() and (new / _SUMS).exists() and not path.exists():
                new.rename(path)
            elif (new / "_CHECKPOINT_METADATA").exists():
                _remove(new)
        for folder in self._directory.glob(f"[0-9]*{_PARTIAL}"):
            shutil.rmtree(folder)
        for folder in self._directory.glob("[0-9]*"):
            # Orbax's own marker is asked for, so that no folder of somebody else's is removed.
            if (folder / "_CHECKPOINT_METADATA").exists() and not (folder / _SUMS).exists():
                _remove(folder)


def _remove(folder: Path) -> None:
    """Renames before removing: half a checkpoint must not carry a checkpoint's name, whenever a process is killed."""
    shutil.rmtree(folder.rename(folder.with_name(folder.name + _PARTIAL)))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    """The numbers of a leaf: of a typed key its uint32 words."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _bytes(state: PyTree) -> np.ndarray:
    """Leaves one after the other, in tree order."""
    leaves = jax.device_get([_data(leaf) for leaf in jax.tree.leaves(state)])
    return np.concatenate([np.reshape(leaf, -1).view(np.uint8) for leaf in leaves])


def _key_kinds(state: PyTree) -> list[str]:
    return [str(jax.random.key_impl(leaf)) for leaf in jax.tree.leaves(state) if _is_key(leaf)]


def _size(template: PyTree) -> int:
    leaves = jax.eval_shape(lambda tree: [_data(part) for part in jax.tree.leaves(tree)], template)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _unpacked(content: np.ndarray, key_kinds: list[str], template: PyTree) -> PyTree:
    kinds = iter(key_kinds)
    taken = 0

    def unpack(leaf: Any) -> jax.Array:
        nonlocal taken
        data = jax.eval_shape(_data, leaf)
        start, taken = taken, taken + data.size * data.dtype.itemsize
        values = content[start:taken].view(data.dtype).reshape(data.shape)
        array = jax.random.wrap_key_data(jnp.asarray(values), impl=next(kinds)) if _is_key(leaf) else values
        return jax.device_put(array, getattr(leaf, "sharding", None))

    return jax.tree.map(unpack, template)


def _layout(state: PyTree) -> dict[str, str]:
    """Every leaf by path as `dtype[shape]`, in tree order: what lies where, in words a reader knows."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _check_layout(saved: dict[str, str], expected: dict[str, str], path: Path) -> None:
    differences = [
        f"{name}: saved {saved.get(name, 'absent')}, expected {expected.get(name, 'absent')}"
        for name in {**expected, **saved}
        if saved.get(name) != expected.get(name)
    ]
    if differences:
        shown = "; ".join(differences[:8]) + ("; …" if len(differences) > 8 else "")
        raise LayoutError(
            f"{path}: checkpoint of another model or optimizer, {len(differences)} leaves differ: {shown}"
        )


def _write_sums(folder: Path) -> None:
    """Records size and CRC-32 of every file: Orbax itself notices neither a flipped bit nor, cleanly, a cut file."""
    sums = {str(file.relative_to(folder)): _sum(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    write_whole(folder / _SUMS, json.dumps(sums))


def _check_sums(folder: Path) -> None:
    sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
    if (
        not isinstance(sums, dict)
        or not sums
        or any(Path(name).is_absolute() or ".." in Path(name).parts for name in sums)
    ):
        raise ValueError(f"{_SUMS} is damaged: expected sums of the files beside it")
    for name, expected in sums.items():
        found = _sum(folder / name)
        if found != expected:
            raise ValueError(f"{name} is damaged: [bytes, CRC-32] are {found}, expected {expected}")


def _amended(folder: Path) -> dict[str, Any] | None:
    file = folder / _AMENDED
    if not file.exists():
        return None
    found, _, text = file.read_text(encoding="utf-8").partition("\n")
    if found != str(zlib.crc32(text.encode())):
        raise ValueError(f"{_AMENDED} is damaged: its first line is {found[:20]!r}, expected the CRC-32 of the rest")
    return json.loads(text)


def _sum(file: Path) -> list[int]:
    content = file.read_bytes()
    return [len(content), zlib.crc32(content)]


@contextlib.contextmanager
def _as_checkpoint_error(what: str, path: Path) -> Iterator[None]:
    """Files and TensorStore report a full disk or a damaged file by different types; callers see one, with the path."""
    try:
        yield
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        full = number in (errno.ENOSPC, errno.EDQUOT) or "RESOURCE_EXHAUSTED" in str(error)
        raise CheckpointError(f"{what} {path}: {'no space left on the disk: ' if full else ''}{error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs every step of every save through absl; what matters is raised."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
