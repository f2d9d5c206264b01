"""What every rule of learning has in common. Rules are listed where they are: `dual`, `one_step`, `delta`."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

from atlas_jax.memory.networks import Network, Weights
from atlas_jax.memory.tokens import Tokens


@runtime_checkable
class Rule(Protocol):
    """How one head of a memory learns: a frozen dataclass, static under jit. The state is a NamedTuple of the rule's own."""

    @property
    def network(self) -> Network:
        """What learns."""
        ...

    @property
    def window(self) -> int:
        """Tokens whose losses each update descends, with strengths of their own where there are several."""
        ...

    @property
    def quadratic(self) -> bool:
        """Whether the work of `advance` grows with the square of its tokens, so that tiles of a long chunk cost less."""
        ...

    def start(self, weights: Weights, width: int, value_width: int) -> Any:
        """The state before the first token of a sequence or shard, with these weights."""
        ...

    def open(self, state: Any) -> Any:
        """A new chunk begins: called before its first token, the first chunk's too."""
        ...

    def advance(
        self, state: Any, tokens: Tokens, count: Int[Array, ""], scales: Float[Array, " i"] | None = None
    ) -> tuple[Any, Float[Array, "t v"]]:
        """Learns and reads the first `count` of t tokens, all of the open chunk.

        Any split of a chunk into calls gives the same. Tokens from `count` on leave the state as it was, and their outputs mean
        nothing. No output depends on a later token.

        Args:
          state: before the first token.
          tokens: t of them.
          count: tokens that are there.
          scales: of polynomial features of keys and queries; None: as they are.
        """
        ...
