"""What the training of memories needs besides: a watch on gates, first weights, a choice of chunks."""
