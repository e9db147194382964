"""streamer: a neural synthesiser that writes its tape ahead of the play head. Importing it does nothing."""

__version__ = "0.1.0"
