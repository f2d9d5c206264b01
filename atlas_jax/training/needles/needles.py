"""Needles in a haystack: does a model, while it trains, answer from what it read long before the question?

A needle is some key tokens and the value tokens that follow them, hidden in a stretch of the stream that the model trains on,
with other needles beside it; the text ends with the key once more, and the model must go on with the value. The same question
is asked of a model that has read nothing but the last `reach` tokens: what it answers more often than that, it remembers.

`memory_needles` asks the memory itself. Both run on the device, whose answers nobody waits for (`NeedleHook`).

Source: Kamradt 2023 (needle in a haystack) on tokens; with several needles, the multi-key form of RULER (Hsieh et al. 2024,
arXiv:2404.06654).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.training.loop import Event, Hook
from atlas_jax.training.needles.memory_needles import DISTRACTORS, SUCCESS, can_hold, memory_needles
from atlas_jax.types import ModelConfig, SequenceModel

_log = logging.getLogger(__name__)

MEMORY_TEXTS = 4  # whose gates memories are probed with

Metrics = dict[str, Array]
Probe = Callable[[PyTree], Metrics]


@dataclass(frozen=True)
class NeedleTask:
    """What is hidden where.

    Attributes:
      lengths: tokens of a text, question included, rising; beyond the model's context the state is carried.
      depths: of the needle that is asked for, shares of the hay before the question: 0 the start, 1 right before the question.
      examples: texts of each length and depth.
      key, value: tokens of each needle.
      distractors: other needles, anywhere in the hay. Without them what does not look like hay would be the answer.
      reach: last tokens that the model without memory has read. None: its `window` where the config has one, else its context.

    Raises:
      ValueError: a number is too small, a depth is no share, lengths do not rise, or one leaves no hay.
    """

    lengths: tuple[int, ...] = (64, 128, 256)
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    examples: int = 16
    key: int = 3
    value: int = 1
    distractors: int = 3
    reach: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("examples", 1), ("key", 1), ("value", 1), ("distractors", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"NeedleTask.{name} is {getattr(self, name)}, expected at least {least}")
        if self.reach is not None and self.reach < self.asked:
            raise ValueError(
                f"NeedleTask.reach is {self.reach}, expected at least the {self.asked} tokens of a question"
            )
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"NeedleTask.lengths is {self.lengths}, expected at least one, rising")
        if not self.depths:
            raise ValueError("NeedleTask.depths is (), expected at least one")
        for depth in self.depths:
            if not 0 <= depth <= 1:
                raise ValueError(f"NeedleTask.depths holds {depth}, expected shares from 0 to 1")
        for length in self.lengths:
            if self.hay(length) < 1:
                raise ValueError(
                    f"NeedleTask.lengths holds {length}, expected at least {length - self.hay(length) + 1}"
                )

    @property
    def needles(self) -> int:
        """In a text."""
        return 1 + self.distractors

    @property
    def asked(self) -> int:
        """Tokens of a question: the key, and the value but its last token, which is only answered."""
        return self.key + self.value - 1

    def hay(self, length: int) -> int:
        """Tokens of the stream in a text."""
        return length - self.needles * (self.key + self.value) - self.asked


class Needles(NamedTuple):
    """Texts that end with a question, and the right answers to it."""

    tokens: Int[Array, "b t"]
    answers: Int[Array, "b v"]


def known_tokens(stream: Int[np.ndarray, " s"]) -> Int[np.ndarray, " k"]:
    """The distinct tokens of a stream, int32: of which needles are made, so that none is one that no model was trained on."""
    return np.unique(stream).astype(np.int32)


def hide(
    task: NeedleTask,
    stream: Int[Array | np.ndarray, " s"],
    known: Int[Array | np.ndarray, " k"],
    key: Key[Array, ""],
    *,
    length: int,
    depth: float | Float[Array, ""],
) -> Needles:
    """Texts with needles; equal keys give equal texts. Trace it inside jit: for a probe, or to train on needles.

    Args:
      task: of what; its lengths and depths are not used.
      stream: tokens, at least the hay of one text; each text takes a random stretch.
      known: `known_tokens` of the stream, at least as many as the tokens of all needles of a text, which are all different.
      key: of the random numbers.
      length: tokens of a text.
      depth: of the needle that is asked for; may be traced.

    Raises:
      ValueError: the stream is too short or has too few different tokens.
    """
    size, hay = task.key + task.value, task.hay(length)
    if len(stream) < hay:
        raise ValueError(f"hide: the stream has {len(stream)} tokens, expected at least the {hay} of one haystack")
    if len(known) < task.needles * size:
        raise ValueError(
            f"hide: the stream has {len(known)} different tokens, expected at least {task.needles * size} for "
            f"{task.needles} needles"
        )
    stream, known = jnp.asarray(stream, jnp.int32), jnp.asarray(known, jnp.int32)

    def one(key: Array) -> Needles:
        start_key, token_key, place_key = jax.random.split(key, 3)
        start = jax.random.randint(start_key, (), 0, len(stream) - hay + 1)
        text = jax.lax.dynamic_slice_in_dim(stream, start, hay)
        hidden = jax.random.choice(token_key, known, (task.needles, size), replace=False)
        gaps = jax.random.randint(place_key, (task.needles,), 0, hay + 1)
        gaps = gaps.at[0].set(jnp.round(jnp.asarray(depth * hay, jnp.float32)).astype(jnp.int32))
        # Sorted by place, a needle before the token of hay at its gap; the sort keeps the order within a needle.
        places = jnp.concatenate([jnp.repeat(2 * gaps, size), 2 * jnp.arange(hay) + 1])
        body = jnp.concatenate([hidden.ravel(), text])[jnp.argsort(places, stable=True)]
        return Needles(jnp.concatenate([body, hidden[0, :-1]]), hidden[0, task.key :])

    return jax.vmap(one)(jax.random.split(key, task.examples))


def read(model: SequenceModel, config: ModelConfig, params: PyTree, tokens: Int[Array, "b t"]) -> PyTree:
    """The state after tokens of any number, 0 too: what is over whole contexts first, then one context after the other.

    Args:
      model, config, params: of any registered kind.
      tokens: to read.
    """
    batch, length = tokens.shape
    if not length:
        return model.init_state(config, batch)
    whole = (length - 1) // config.context
    first = length - whole * config.context
    _, state = model.apply(config, params, tokens[:, :first], None)
    if whole:
        pieces = jnp.moveaxis(tokens[:, first:].reshape(batch, whole, config.context), 1, 0)
        state, _ = jax.lax.scan(
            lambda state, piece: (model.apply(config, params, piece, state)[1], None), state, pieces
        )
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


class _Read(NamedTuple):
    """A batch of texts of one length and depth, read up to the question."""

    state: Any
    near: Int[Array, "b r"]  # the end of what was read: all that the model without memory reads
    question: Int[Array, "b q"]
    answers: Int[Array, "b v"]


def make_probe(
    model: SequenceModel, config: Any, stream: Int[np.ndarray, " s"], task: NeedleTask, key: Key[Array, ""]
) -> Probe:
    """A probe `params -> metrics`, each of its programs compiled once; its arrays stay on the device and nothing waits.

    Reading is one program a length; the question is asked of a state, whose size does not grow with what was read, by one
    program for all lengths, with memory and without. Logits of the hay are never made.

    Args:
      model, config: of any registered kind; of an `AtlasConfig` the memories are probed too.
      stream: tokens of the training distribution, best held out.
      task: lengths and depths.
      key: of the texts, which are the same at every call.

    Returns:
      The probe. Its metrics, float32: niah_accuracy, share of right answers with all of the text read; niah_control, with the
      last `reach` tokens read; niah_map and niah_control_map, the same by [length, depth]; for an `AtlasConfig` with a memory
      that can hold 100 pairs, means over all needles of `memory_needles`: niah_memory_cosine (after the distractors),
      niah_memory_written (right after the needle), niah_memory_before, and niah_memory_success, the share of cosines >= 0.8.

    Raises:
      ValueError: the stream is too short or has too few different tokens for the task.
    """
    reach = max(task.asked, getattr(config, "window", config.context) if task.reach is None else task.reach)
    known, tokens = jnp.asarray(known_tokens(stream)), jnp.asarray(stream, jnp.int32)
    for length in task.lengths:  # refused here, and not when training has begun
        jax.eval_shape(partial(hide, task, length=length, depth=0.0), tokens, known, key)
    programs = {length: _reading(model, config, task, length, reach) for length in task.lengths}
    read_near = jax.jit(partial(read, model, config))
    ask = jax.jit(lambda *given: jnp.mean(answers_right(model, config, *given), dtype=jnp.float32))
    of_memory = _memory_program(config)

    def cell(params: PyTree, index: int, length: int, depth: float) -> tuple[Array, Array]:
        found = programs[length](params, tokens, known, jax.random.fold_in(key, index), jnp.float32(depth))
        right = ask(params, found.state, found.question, found.answers)
        if reach >= length:
            return right, right
        return right, ask(params, read_near(params, found.near), found.question, found.answers)

    def probe(params: PyTree) -> Metrics:
        cells = [(length, depth) for length in task.lengths for depth in task.depths]
        found = [cell(params, index, *place) for index, place in enumerate(cells)]
        return _summary(found, len(task.depths)) | ({} if of_memory is None else of_memory(params, tokens, key))

    return probe


def _reading(
    model: SequenceModel, config: ModelConfig, task: NeedleTask, length: int, reach: int
) -> Callable[..., _Read]:
    """Compiles making and reading the texts of one length, at any depth."""

    @jax.jit
    def program(params: PyTree, stream: Array, known: Array, key: Array, depth: Array) -> _Read:
        needles = hide(task, stream, known, key, length=length, depth=depth)
        text, question = needles.tokens[:, : -task.asked], needles.tokens[:, -task.asked :]
        near = text[:, text.shape[1] - min(reach - task.asked, text.shape[1]) :]
        return _Read(read(model, config, params, text), near, question, needles.answers)

    return program


@partial(jax.jit, static_argnums=1)
def _summary(found: list[tuple[Array, Array]], depths: int) -> Metrics:
    right, control = (jnp.stack(shares).reshape(-1, depths) for shares in zip(*found, strict=True))
    means = {"niah_accuracy": jnp.mean(right), "niah_control": jnp.mean(control)}
    return {**means, "niah_map": right, "niah_control_map": control}


def _memory_program(config: Any) -> Callable[[PyTree, Int[Array, " s"], Key[Array, ""]], Metrics] | None:
    """Compiles the probe of the memories; None for models without, or with none that outlasts the distractors."""
    if not isinstance(config, AtlasConfig) or not can_hold(config):
        return None

    @jax.jit
    def program(params: PyTree, stream: Array, key: Array) -> Metrics:
        length = min(1 + DISTRACTORS, config.context, len(stream))
        places = np.linspace(0, len(stream) - length, MEMORY_TEXTS).astype(int)
        texts = stream[places[:, None] + np.arange(length)[None]]
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
