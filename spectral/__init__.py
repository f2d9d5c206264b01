"""Attention-free, strictly causal sequence models that mix in the frequency domain."""
