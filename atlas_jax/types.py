"""Names shared by all packages: the alphabet of axes and the contract of a sequence model.

Axes: b batch, t time, c chunk, h heads, k and v key and value width, d model, f frequency, e ensemble, n layers, m modes.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

PyTree = Any


@runtime_checkable
class ModelConfig(Protocol):
    """What every model's frozen config tells: enough to make tokens for it and to name its size."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def context(self) -> int: ...


@runtime_checkable
class SequenceModel(Protocol):
    """A strictly causal sequence model as a module (or object) of pure functions over a frozen config.

    `apply` over t tokens equals `apply` over any split of them with the state carried, and t calls of `step`; no output
    depends on a later input. `tests/contracts` holds every registered model to it.
    """

    def init(self, config: Any, key: Array) -> PyTree:
        """Fresh parameters, float32."""
        ...

    def init_state(self, config: Any, batch: int) -> PyTree:
        """The state before the first token: a NamedTuple of arrays whose size does not grow with time."""
        ...

    def apply(
        self, config: Any, params: PyTree, tokens: Int[Array, "b t"], state: PyTree | None = None
    ) -> tuple[Float[Array, "b t v"], PyTree]:
        """Logits that predict token t + 1 from tokens up to t, and the state after the last; `None` is the start."""
        ...

    def step(
        self, config: Any, params: PyTree, token: Int[Array, " b"], state: PyTree
    ) -> tuple[Float[Array, "b v"], PyTree]:
        """One token in, its logits and the next state out."""
        ...
