"""Building blocks that models share."""

from atlas_jax.nn.linear import linear

__all__ = ["linear"]
