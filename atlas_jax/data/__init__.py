"""From text to batches: tokenizers, packing into windows, and a position-addressable order. NumPy only, no JAX."""

from atlas_jax.data.batches import Batches, batch_order
from atlas_jax.data.packing import Packed, pack
from atlas_jax.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer, train_bpe

__all__ = ["Batches", "ByteTokenizer", "Packed", "Tokenizer", "batch_order", "load_tokenizer", "pack", "train_bpe"]
