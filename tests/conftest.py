"""What all tests share: patience with compilers, and a sound card that needs no hardware."""

from hypothesis import settings

# The first example of a property may compile a kernel; how long one takes says nothing on a busy machine.
settings.register_profile("streamer", deadline=None)
settings.load_profile("streamer")
