"""Which sequence models exist: those that installed packages announce in the entry-point group `atlas_jax.models`.

An entry point names a module (or object) that keeps the `SequenceModel` contract and offers `PRESETS`. Packages that
stand above this one join that way, so that nothing here imports them. `tests/contracts` holds all of them to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import entry_points
from typing import Any, Protocol, TypedDict, runtime_checkable

import jax

from atlas_jax.types import ModelConfig, PyTree, SequenceModel

GROUP = "atlas_jax.models"


class Presets(dict[str, Any]):
    """A model's configs by name; a name that is none is answered with those there are."""

    def __missing__(self, name: object) -> Any:
        raise KeyError(f"preset is {name!r}, expected one of {', '.join(self)}")


@runtime_checkable
class RegisteredModel(SequenceModel, Protocol):
    """A sequence model with named sizes."""

    @property
    def PRESETS(self) -> Mapping[str, ModelConfig]: ...


class Description(TypedDict):
    """What one preset takes: numbers of parameters, tokens of context, bytes of state for one sequence."""

    name: str
    preset: str
    parameters: int
    context: int
    state_bytes: int


def registered() -> dict[str, RegisteredModel]:
    """All models by name, in the order of their names.

    Raises:
      TypeError: an entry point names something that lacks a part of the contract.
    """
    found = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        model = entry.load()
        if not isinstance(model, RegisteredModel):
            parts = ("PRESETS", "init", "init_state", "apply", "step")
            lacking = ", ".join(part for part in parts if not hasattr(model, part))
            raise TypeError(
                f"model {entry.name!r}: the entry point {entry.value!r} in {GROUP} lacks {lacking}; expected a module "
                f"that offers {', '.join(parts)}"
            )
        found[entry.name] = model
    return found


def presets() -> Iterator[tuple[str, str, ModelConfig]]:
    """Name of the model, name of the preset, and its config, of every preset of every registered model."""
    for name, model in registered().items():
        for preset, config in model.PRESETS.items():
            yield name, preset, config


def describe(name: str, preset: str) -> Description:
    """Counts what a preset takes, from the shapes that its own `init` and `init_state` give; no memory is taken.

    Args:
      name: of a registered model.
      preset: one of its sizes.

    Raises:
      ValueError: there is no such model or preset; the message lists those there are.
    """
    models = registered()
    if name not in models:
        raise ValueError(f"model is {name!r}, expected one of {', '.join(models)}")
    model = models[name]
    if preset not in model.PRESETS:
        raise ValueError(f"preset of {name} is {preset!r}, expected one of {', '.join(model.PRESETS)}")
    config = model.PRESETS[preset]
    parameters = jax.eval_shape(partial(model.init, config), jax.eval_shape(lambda: jax.random.key(0)))
    state = jax.eval_shape(partial(model.init_state, config, 1))
    return Description(
        name=name,
        preset=preset,
        parameters=_total(parameters, lambda leaf: leaf.size),
        context=config.context,
        state_bytes=_total(state, lambda leaf: leaf.size * leaf.dtype.itemsize),
    )


def _total(tree: PyTree, measure: Callable[[jax.ShapeDtypeStruct], int]) -> int:
    return sum(measure(leaf) for leaf in jax.tree.leaves(tree))
