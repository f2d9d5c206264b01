"""A run from the command line: settings, texts, stages, the folder it goes on from, what it writes and shows."""
