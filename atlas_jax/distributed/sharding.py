"""The only place where PartitionSpecs are written."""

from __future__ import annotations

from jax.sharding import PartitionSpec

from atlas_jax.distributed.mesh import BATCH, VARIANT

REPLICATED = PartitionSpec()
BY_VARIANT = PartitionSpec(VARIANT)
BY_BATCH = PartitionSpec(BATCH)
VARIANT_WINDOW = PartitionSpec(VARIANT, BATCH)  # [e, n, ...]: evaluation results
VARIANT_STEP_BATCH = PartitionSpec(VARIANT, None, BATCH)  # [e, s, b]: batch indices
