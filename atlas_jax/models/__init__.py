"""The registered sequence models; `python -m atlas_jax.models` lists their sizes."""

from atlas_jax.models.registry import Description, RegisteredModel, describe, presets, registered

__all__ = ["Description", "RegisteredModel", "describe", "presets", "registered"]
