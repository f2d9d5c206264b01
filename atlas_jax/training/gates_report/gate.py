"""What a gate is: a criterion, what was measured for it, and whether that is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gate:
    """One exit criterion and what became of it. What could not be measured has not passed.

    Attributes:
      id: such as G2-1.
      title: what is asked about, in a few words.
      passed: whether what was measured is what was expected.
      measured: figures by name, JSON.
      expected: what was asked for.
      text: what was found.
    """

    id: str
    title: str
    passed: bool
    measured: dict[str, Any]
    expected: str
    text: str

    def line(self) -> str:
        """All but the figures, for a reader of a terminal."""
        return (
            f"{self.id} {'passed' if self.passed else 'FAILED'}  {self.title}: {self.text} (expected: {self.expected})"
        )


def summary(gates: Sequence[Gate]) -> str:
    """How many passed, and which did not."""
    failed = [gate.id for gate in gates if not gate.passed]
    told = f"{len(gates) - len(failed)} of {len(gates)} gates passed"
    return f"{told}; failed: {', '.join(failed)}" if failed else told
