"""What a stretch of a sequence has on its left: the state of an earlier call and nothing else, or another device's stretch.

Layers that look back ask here for what came before their inputs. `ALONE` is the answer where a device has the whole sequence;
`atlas_jax.distributed.long_context` has the one for a sequence over several devices, so that layers are written once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, PyTree

from atlas_jax.nn.attention import Window

# (inputs [b, ...], state or None) to (outputs [b, ...], state). A state of zeros begins every sequence.
Learn = Callable[[Any, Any], tuple[Any, Any]]


@runtime_checkable
class Neighbours(Protocol):
    """Where a layer gets what came before its inputs; static under jit."""

    def inputs_before(
        self, x: Float[Array, "b t d"], count: int, given: Float[Array, "b n d"] | None
    ) -> Float[Array, "b n d"] | None:
        """The `count` inputs before x; None: there are none, the sequence begins.

        Args:
          x: inputs of a layer.
          count: n.
          given: those before the whole sequence of this call.
        """
        ...

    def window_before(
        self, key: Float[Array, "b t h k"], value: Float[Array, "b t h v"], window: int, given: Window | None
    ) -> Window | None:
        """The window before these keys, not rotated, and values; arguments as for `inputs_before`."""
        ...

    def go_on(self, learn: Learn, xs: PyTree, given: PyTree, shard: int | None) -> tuple[PyTree, PyTree]:
        """`learn` on a stretch, from the state after all that came before it.

        Args:
          learn: what goes from token to token.
          xs: inputs, [b, ...].
          given: state before the whole sequence of this call; None begins it.
          shard: tokens after which what is learnt begins anew, if it does.

        Returns:
          The stretch's outputs, and the state after it.
        """
        ...


@dataclass(frozen=True)
class Alone:
    """Nothing came before but what is given."""

    def inputs_before(self, x: Array, count: int, given: Array | None) -> Array | None:
        del x, count
        return given

    def window_before(self, key: Array, value: Array, window: int, given: Window | None) -> Window | None:
        del key, value, window
        return given

    def go_on(self, learn: Learn, xs: PyTree, given: PyTree, shard: int | None) -> tuple[PyTree, PyTree]:
        del shard
        return learn(xs, given)


ALONE = Alone()
