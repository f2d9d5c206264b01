"""Known damage to clean text, and the benchmark that is built from it."""
