"""What all tests share: patience with compilers, and a sound card that needs no hardware."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jackrig import JackServer, jack_is_installed

# The first example of a property may compile a kernel; how long one takes says nothing on a busy machine.
settings.register_profile("streamer", deadline=None)
settings.load_profile("streamer")


# A shell starts what it puts into the background with Ctrl-C ignored, and that would be inherited by every
# program that a test starts and then ends with Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the corpora that tests make out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMER_CORPORA", str(tmp_path_factory.mktemp("corpora")))
        yield


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
