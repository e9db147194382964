"""Compiling in another process: numba compiles on one core only, and keeps Python to itself meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from streamer.kernels import cache
from streamer.mixer import compiled_callback
from streamer.models import checkpoint
from streamer.models.checkpoint import Provenance
from streamer.models.quantisers import Quantiser
from streamer.models.specs import SampleRnnSpec, WaveNetSpec
from streamer.shapes import random_weights
from streamer.voice import Voice

_SMALLEST: dict[str, WaveNetSpec | SampleRnnSpec] = {
    WaveNetSpec.architecture: WaveNetSpec((1,), residual=1, gate=1, skip=1, output=1),
    SampleRnnSpec.architecture: SampleRnnSpec((2,), dim=1, rnn_layers=1, embedding=1),
}
"""What is compiled for one model of an architecture serves all."""

# Ctrl-C ends it with whoever waits for it.
_COMPILE = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
from streamer.warming import compile_here
compile_here(sys.argv[1])
"""


def compile_here(architecture: str) -> None:
    """Compile the generator for an architecture in this process, and keep it on disk."""
    spec, quantiser = _SMALLEST[architecture], Quantiser()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "smallest.safetensors"
        checkpoint.save(
            path,
            spec=spec,
            quantiser=quantiser,
            sample_rate=16_000,
            tensors=random_weights(spec),
            provenance=Provenance(),
        )
        model = checkpoint.load(path)
    Voice("smallest", model, {}, lead=0.1).warm()


def compile_together(architecture: str) -> None:
    """Compile the generator for an architecture, and the mixer, at once; both are then loaded from disk.

    What does not come about is compiled when it is needed.
    """
    with _compiler(architecture):
        compiled_callback()


def compile_beside(architecture: str) -> None:
    """Have the generator for an architecture compiled, if it has not been, while Python goes on for others.

    What does not come about is compiled when it is needed.
    """
    if cache.usable_folder() is not None and not cache.compiled_already(f"voice-{architecture}"):
        with _compiler(architecture):
            pass


def _compiler(architecture: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-P", "-c", _COMPILE, architecture]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
