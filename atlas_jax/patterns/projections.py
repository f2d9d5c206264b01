"""Vectors of any width brought to the memory's: fixed orthogonal projections, a bounded number of them kept.

A projection depends on the two widths alone, so that one that was dropped comes back the same. A narrower vector keeps its length
and all angles exactly; a wider one keeps them on average, within about 1 / sqrt(2 width) (Johnson-Lindenstrauss). It makes shapes
fit, no more: vectors of two different widths, say of two embedders, are as far apart as unrelated ones.

Source: Mezzadri 2007, How to generate random matrices from the classical compact groups: QR of normal numbers with the diagonal
of R made positive is uniform over orthogonal matrices, and unique.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from atlas_jax.patterns.memory import LONGEST

KEPT = 10
WIDEST = 4096  # of an input: its projection to width 256 takes 4 MiB and half a second


class Projections(NamedTuple):
    """The matrices in use, oldest first; their widths are their shapes."""

    matrices: tuple[Float[Array, "i d"], ...] = ()


def project(
    projections: Projections, vector: np.ndarray | Array, width: int, *, kept: int = KEPT
) -> tuple[Float[Array, " d"], Projections]:
    """The way in for every vector from outside, on the host: checked, and of the memory's width.

    One of that width already is left as it is.

    Args:
      projections: in use so far, all to this width.
      vector: any floating numbers.
      width: of the memory.
      kept: the most matrices to keep; the oldest one goes.

    Returns:
      A float32 vector of the memory's width, and the projections in use.

    Raises:
      ValueError: the vector is no vector, is too wide, holds NaN or infinity, or is longer than 1e18; or kept is less than 1.
    """
    numbers = np.asarray(vector, np.float64)
    _check(numbers, kept)
    if numbers.size == width:
        return jnp.asarray(numbers, jnp.float32), projections
    found = next((matrix for matrix in projections.matrices if matrix.shape == (numbers.size, width)), None)
    if found is None:
        found = jnp.asarray(orthogonal(numbers.size, width), jnp.float32)
        projections = Projections((*projections.matrices, found)[-kept:])
    return jnp.asarray(numbers @ np.asarray(found, np.float64), jnp.float32), projections


def orthogonal(rows: int, columns: int) -> Float[np.ndarray, "i d"]:
    """The projection from one width to another: orthonormal rows, or, to a smaller width, orthogonal columns of equal length.

    Their length sqrt(rows / columns) keeps that of a vector on average. Seeded by the two widths.
    """
    tall, narrow = max(rows, columns), min(rows, columns)
    q, r = np.linalg.qr(np.random.default_rng([rows, columns]).standard_normal((tall, narrow)))
    q *= np.sign(np.diag(r))
    return q * (rows / columns) ** 0.5 if rows > columns else q.T


def _check(numbers: np.ndarray, kept: int) -> None:
    if kept < 1:
        raise ValueError(f"project: kept={kept}, expected 1 or more")
    if numbers.ndim != 1 or not 1 <= numbers.size <= WIDEST:
        raise ValueError(f"vector has shape {numbers.shape}, expected one axis of 1 to {WIDEST} numbers")
    if not np.isfinite(numbers).all():
        place = int(np.argmin(np.isfinite(numbers)))
        raise ValueError(f"vector[{place}] is {numbers[place]}, expected a finite number")
    if np.linalg.norm(numbers) >= LONGEST:
        raise ValueError(f"vector has length {np.linalg.norm(numbers):.3g}, expected less than {LONGEST:g}")
