"""The first start on a machine: numba compiles on one core only, so another process does half of the work."""

from __future__ import annotations

import subprocess
import sys

from streamer.mixer import compiled_callback

# Ctrl-C ends it with whoever waits for it.
_COMPILE_GENERATOR = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
from streamer.library import open_model
from streamer.voice import Voice
Voice(*open_model(sys.argv[1]), {}, 0.1).warm()
"""


def compile_together(model: str) -> None:
    """Compile the generator for a model, and the mixer, at once; both are then loaded from disk.

    model: as `streamer.library.open_model` takes it. What does not come about is compiled when it is needed.
    """
    arguments = [sys.executable, "-P", "-c", _COMPILE_GENERATOR, model]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        compiled_callback()
