"""The training core: state, pure step, optimizer and schedules, loop with hooks, telemetry, checkpoints."""

from atlas_jax.training.checkpoint import Checkpointer, CheckpointError
from atlas_jax.training.loop import Event, Hook, NonFiniteError, every, loop, require_finite, train
from atlas_jax.training.optim import adamw, cosine, wsd
from atlas_jax.training.state import TrainState, init_state
from atlas_jax.training.step import make_step
from atlas_jax.training.telemetry import Telemetry

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "Event",
    "Hook",
    "NonFiniteError",
    "Telemetry",
    "TrainState",
    "adamw",
    "cosine",
    "every",
    "init_state",
    "loop",
    "make_step",
    "require_finite",
    "train",
    "wsd",
]
