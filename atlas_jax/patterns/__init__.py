"""Patterns of two sides, good and bad, in bounded memory: pure functions over an explicit state, no Flax."""
