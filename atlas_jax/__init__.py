"""Trains and adapts sequence models that learn at test time; state is an explicit pytree, each step a pure function."""
