"""What all tests share: patience with compilers, and a sound card that needs no hardware."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jackrig import JackServer, jack_is_installed

# The first example of a property may compile a kernel; how long one takes says nothing on a busy machine.
settings.register_profile("streamer", deadline=None)
settings.load_profile("streamer")


@pytest.fixture
def jack_server(tmp_path: Path) -> Iterator[JackServer]:
    """A private JACK server; processes started with its `environment` find it, and nobody else."""
    if not jack_is_installed():
        reason = "jackd is not installed: sudo apt install jackd2"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with JackServer(tmp_path) as server:
        yield server
