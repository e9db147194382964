"""The shipped recipes that are for a class of machines, and for anybody's audio."""

PRESETS = ("laptop-16k", "desktop-16k", "gpu-44k")
"""Names of recipes, for the least machine first, each with the rate that its model plays at."""
