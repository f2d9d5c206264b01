"""Mathematics of memories that learn at test time: pure functions over explicit states, no Flax."""
