"""Compiled incremental steppers, free of the GIL: the models of `streamer.models`, one sample at a time."""
