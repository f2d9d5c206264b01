"""Going back to the last healthy checkpoint: when, how, and faults to rehearse it with."""
