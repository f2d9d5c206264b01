"""Needles in a haystack: does a model, while it trains, answer from what it read long before the question?

The model reads a text of `needles.texts.hide`, which ends with the key of one of its needles, and must go on with the value.
The same question is asked of a model that has read nothing but the last `reach` tokens: what it answers more often than that, it
remembers. `memory_needles` asks the memory itself. Both run on the device, whose answers nobody waits for (`NeedleHook`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer, Key, PyTree

from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.training.loop import Event, Hook
from atlas_jax.training.needles.memories import DISTRACTORS, SUCCESS, can_hold, memory_needles
from atlas_jax.training.needles.texts import Alphabet, NeedleError, NeedleTask, hide
from atlas_jax.types import ModelConfig, SequenceModel

_log = logging.getLogger(__name__)

MEMORY_TEXTS = 4  # whose gates memories are probed with
_PROBE = 1  # of the random numbers of texts: no other part of a run has the same

Metrics = dict[str, Array]
Probe = Callable[[PyTree], Metrics]


class Reader:
    """Reads texts of any length in pieces, what is over whole pieces first: few programs, each compiled once."""

    def __init__(self, model: SequenceModel, config: ModelConfig, piece: int) -> None:
        """Args: of any registered kind; tokens of a piece, at most a context."""
        self._init = partial(model.init_state, config)
        self._first = jax.jit(lambda params, tokens: model.apply(config, params, tokens)[1])
        self._then = jax.jit(lambda params, tokens, state: model.apply(config, params, tokens, state)[1])
        self._piece = piece

    def __call__(self, params: PyTree, tokens: Int[Array, "b t"]) -> PyTree:
        """The state after so many tokens, 0 too."""
        batch, length = tokens.shape
        if not length:
            return self._init(batch)
        ends = range(length % self._piece or self._piece, length + 1, self._piece)
        state = self._first(params, tokens[:, : ends[0]])
        for end in ends[1:]:
            state = self._then(params, tokens[:, end - self._piece : end], state)
        return state


def answers_right(
    model: SequenceModel,
    config: ModelConfig,
    params: PyTree,
    state: PyTree,
    question: Int[Array, "b q"],
    answers: Int[Array, "b v"],
) -> Bool[Array, " b"]:
    """Whether the model answers with the whole value, every token of it the most probable one.

    Given the right tokens before each, all are right exactly where the model would have written the value by itself.

    Args:
      model, config, params: of any registered kind.
      state: after all that stands before the question.
      question: the key, and the value but its last token.
      answers: the value.
    """
    logits, _ = model.apply(config, params, question, state)
    guess = jnp.argmax(logits[:, -answers.shape[1] :], axis=-1)
    return jnp.all(guess.astype(jnp.int32) == answers, axis=-1)


class _Cell(NamedTuple):
    """The texts of one length and depth, on the device."""

    text: Int[Array, "b r"]
    near: Int[Array, "b n"] | None  # its end, all that the model without memory reads; None where that is all of it
    question: Int[Array, "b q"]
    answers: Int[Array, "b v"]


def make_probe(
    model: SequenceModel,
    config: Any,
    stream: Integer[np.ndarray, " s"],
    known: Alphabet,
    task: NeedleTask,
    seed: int,
) -> Probe:
    """A probe `params -> metrics`, each of its programs compiled once; its arrays stay on the device and nothing waits.

    Texts are read in pieces as long as the shortest of them, the question is asked of a state, whose size does not grow with
    what was read: a few programs do for all lengths, with memory and without. Logits of the hay are never made.

    Args:
      model, config: of any registered kind; of an `AtlasConfig` the memories are probed too.
      stream: tokens of the training distribution, best held out.
      known: what needles are made of, the same as in training.
      task: lengths and depths.
      seed: of the texts, made here and the same at every call.

    Returns:
      The probe. Its metrics, float32: niah_accuracy, share of right answers with all of the text read; niah_control, with the
      last `reach` tokens read; niah_map and niah_control_map, the same by [length, depth]; for an `AtlasConfig` with a memory
      that can hold 100 pairs, means over all needles of `memory_needles`: niah_memory_cosine (after the distractors),
      niah_memory_written (right after the needle), niah_memory_before, and niah_memory_success, the share of cosines >= 0.8.

    Raises:
      NeedleError: the stream is too short or the alphabet too small for the task, or the context is too short for a
        question.
    """
    if config.context < task.asked:
        raise NeedleError(
            f"needles: the context is {config.context}, expected at least the {task.asked} tokens of a question"
        )
    places = [(length, depth) for length in task.lengths for depth in task.depths]
    reach = max(task.asked, getattr(config, "window", config.context) if task.reach is None else task.reach)
    cells = []
    for index, (length, depth) in enumerate(places):
        rng = np.random.default_rng([_PROBE, seed, index])
        made = hide(task, stream, known, rng, length=length, depth=depth)
        text, question = made.tokens[:, : -task.asked], made.tokens[:, -task.asked :]
        near = None if reach >= length else text[:, length - reach :]
        cells.append(_Cell(*jax.tree.map(jnp.asarray, (text, near, question, made.answers))))
    read = Reader(model, config, min(config.context, task.lengths[0]))
    ask = jax.jit(lambda *given: jnp.mean(answers_right(model, config, *given), dtype=jnp.float32))
    of_memory = _memory_program(config, stream, jax.random.key(seed))

    def answered(params: PyTree, cell: _Cell) -> tuple[Array, Array]:
        right = ask(params, read(params, cell.text), cell.question, cell.answers)
        if cell.near is None:
            return right, right
        return right, ask(params, read(params, cell.near), cell.question, cell.answers)

    def probe(params: PyTree) -> Metrics:
        found = [answered(params, cell) for cell in cells]
        return _summary(found, len(task.depths)) | ({} if of_memory is None else of_memory(params))

    return probe


@partial(jax.jit, static_argnums=1)
def _summary(found: list[tuple[Array, Array]], depths: int) -> Metrics:
    right, control = (jnp.stack(shares).reshape(-1, depths) for shares in zip(*found, strict=True))
    means = {"niah_accuracy": jnp.mean(right), "niah_control": jnp.mean(control)}
    return {**means, "niah_map": right, "niah_control_map": control}


def _memory_program(config: Any, stream: Integer[np.ndarray, " s"], key: Key[Array, ""]) -> Probe | None:
    """Compiles the probe of the memories; None for models without, or with none that outlasts the distractors."""
    if not isinstance(config, AtlasConfig) or not can_hold(config):
        return None
    length = min(1 + DISTRACTORS, config.context, len(stream))
    places = np.linspace(0, len(stream) - length, MEMORY_TEXTS).astype(int)
    texts = jnp.asarray(stream[places[:, None] + np.arange(length)], jnp.int32)

    @jax.jit
    def program(params: PyTree) -> Metrics:
        cosines = memory_needles(config, params, texts, key)
        return {
            "niah_memory_cosine": jnp.mean(cosines.kept),
            "niah_memory_written": jnp.mean(cosines.written),
            "niah_memory_before": jnp.mean(cosines.before),
            "niah_memory_success": jnp.mean(cosines.kept >= SUCCESS, dtype=jnp.float32),
        }

    return program


class NeedleHook:
    """A hook that probes at every `interval`-th completed step and hands every event on, the found metrics among its own.

    Accuracy below the bound is a warning in the log, some steps later: no step waits for a probe's answers. Training goes on.
    Leaving the context waits for the last ones.
    """

    def __init__(self, interval: int, probe: Probe, then: Hook, *, bound: float = 0.8, last: int | None = None) -> None:
        """Args: steps between probes; from `make_probe`; what gets the events, as `Telemetry`; least accuracy; a step to probe at
        besides, the last one of the run."""
        if interval < 1:
            raise ValueError(f"NeedleHook: interval={interval}, expected 1 or more")
        self._interval, self._probe, self._then, self._bound, self._last = interval, probe, then, bound, last
        self._unread: list[tuple[int, Metrics]] = []

    def __call__(self, event: Event) -> None:
        """Probes the event's state where it is due."""
        if event.index % self._interval == 0 or event.index == self._last:
            found = self._probe(event.state.params)
            self._unread.append((event.index, found))
            event = event._replace(metrics={**event.metrics, **found})
        self._then(event)
        self._warn(_ready)

    def __enter__(self) -> NeedleHook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._warn(lambda metrics: True)

    def _warn(self, ready: Callable[[Metrics], bool]) -> None:
        while self._unread and ready(self._unread[0][1]):
            step, metrics = self._unread.pop(0)
            shown = {name: float(value) for name, value in metrics.items() if not value.ndim}
            if not shown["niah_accuracy"] >= self._bound:  # a share of NaN would be none
                said = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
                _log.warning(
                    "step %d: needles are not found, expected niah_accuracy >= %g: %s", step, self._bound, said
                )


def _ready(metrics: dict[str, Any]) -> bool:
    """Whether reading them would wait for nothing."""
    return all(value.is_ready() for value in metrics.values())
