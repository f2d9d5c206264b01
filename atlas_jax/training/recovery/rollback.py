"""What a run remembers of its rollbacks, and how a checkpoint holds it."""

from __future__ import annotations

import json
import os
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from atlas_jax.training.recovery.trigger import TriggerState, from_json, to_json
from atlas_jax.training.state import TrainState
from atlas_jax.training.whole_file import write_whole

KEY = "recovery"  # of a checkpoint's extra
Response = Literal["skip", "slow"]


class Rollback(NamedTuple):
    """One return to an earlier checkpoint; a record of JSON's types."""

    fired: int  # completed steps when it fired
    seen: str  # why, in words
    restored: int  # completed steps of the checkpoint it went back to
    response: Response
    first_skipped: int | None  # position of the first batch passed over
    last_skipped: int | None
    rate_scale: float  # of the learning rate from there on


def words(record: Rollback) -> str:
    """What a rollback changed."""
    if record.response == "skip":
        return f"batches {record.first_skipped} to {record.last_skipped} skipped"
    return f"learning rate times {record.rate_scale:.4g}"


def rollbacks(extra: dict[str, Any]) -> tuple[Rollback, ...]:
    """The rollbacks of a run, oldest first, from the `extra` of any of its checkpoints."""
    return tuple(Rollback(**record) for record in extra.get(KEY, {}).get("rollbacks", ()))


def write_rollbacks(path: str | os.PathLike[str], extra: dict[str, Any]) -> None:
    """Writes the rollbacks of a run as JSON lines, all of them anew, so that a killed run neither lacks nor doubles one.

    Args:
      path: replaced at once by the whole new file.
      extra: as `loop_with_recovery` gives it to `restored`.
    """
    write_whole(path, "".join(json.dumps(record._asdict()) + "\n" for record in rollbacks(extra)))


class Course(NamedTuple):
    """All of a run that is neither array nor constant."""

    trigger: TriggerState = TriggerState()
    rollbacks: tuple[Rollback, ...] = ()
    rate_scale: float = 1.0
    stage: int = 1  # of training, whose losses the trigger knows


def at_position(state: TrainState, position: int) -> TrainState:
    """The state, reading on from another batch."""
    return state._replace(position=jax.device_put(np.int32(position), state.position.sharding))


def as_json(course: Course, position: int) -> dict[str, Any]:
    """The course, and the batch that is next, for a checkpoint's `extra`."""
    return {
        "trigger": to_json(course.trigger),
        "rollbacks": [record._asdict() for record in course.rollbacks],
        "rate_scale": course.rate_scale,
        "stage": course.stage,
        "position": position,
    }


def understood(extra: dict[str, Any], state: TrainState) -> tuple[TrainState, Course]:
    """What `as_json` wrote; a checkpoint of another loop lacks it, and its course begins."""
    if KEY not in extra:
        return state, Course()
    noted = extra[KEY]
    return at_position(state, noted["position"]), Course(
        from_json(noted["trigger"]), rollbacks(extra), noted["rate_scale"], noted["stage"]
    )
