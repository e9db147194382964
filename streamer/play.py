"""A performance: an engine on a device, the device watched over, until somebody stops it."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamer import audio
from streamer.audio import Device, Output
from streamer.capture import Capture
from streamer.engine import Engine
from streamer.models.errors import DeviceError

SWITCH_SECONDS = 0.0001
"""The interpreter's switch interval while it plays. Beside a thread that is always busy in Python, each
call of the system costs one, such as that which reads a datagram: half a second for a burst of 5000."""
STATUS_SECONDS = 0.25
_RETRY_SECONDS = 1.0

Tell = Callable[[str], None]


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that is set by Ctrl-C or a polite kill, which then raise nothing."""
    stopped = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Performance:
    """Plays an engine on a device until it is stopped, and opens the device again when it comes back.

    Args:
        engine: prepared for the device's rate and channels, not yet started.
        device: where it is heard.
        block: frames a callback; 0 leaves the choice to the device.
        capture: the live input, already open; None where nothing is heard.
        tell: takes one line whenever something happens that a performer should know.
    """

    def __init__(
        self, engine: Engine, device: Device, block: int, capture: Capture | None, tell: Tell
    ) -> None:
        self.engine = engine
        self._device, self._block = device, block
        self._capture = capture
        self._tell = tell
        self._output = self._new_output()
        self._hangs = False

    def start(self) -> None:
        """Begin to write, and soon to play; raise `DeviceError` if the device refuses."""
        # What has been loaded stays: a collector that need not look at it is out of the way sooner, while
        # playing and at the end, where it would take 0.2 of the second that Ctrl-C has.
        gc.freeze()
        self.engine.start()
        self._output.start()

    def run(self, stopped: threading.Event, show: Callable[[], None]) -> None:
        """Watch over the device, and show the status, until `stopped` is set."""
        while not stopped.wait(STATUS_SECONDS):
            if self._output.alive:
                show()
            else:
                self._wait_for_device(stopped)

    def stop(self) -> bool:
        """Fade out and close; False where something hangs and only `audio.leave` will do."""
        self._close_streams()
        return self.engine.close() and not self._hangs

    def _close_streams(self) -> None:
        """Close all; once PortAudio has hung, the process cannot end in the ordinary way any more."""
        self._hangs |= not self._output.stop()
        if self._capture is not None:
            self._hangs |= not self._capture.close()

    def _wait_for_device(self, stopped: threading.Event) -> None:
        """Open the device again as soon as it is back, or return when `stopped` is set.

        The input is closed, too: while any stream is open PortAudio does not look for devices.
        """
        self._close_streams()
        remedy = "it is opened again as soon as it is back"
        if self._hangs:
            remedy = "its sound server does not answer: unless that comes back, start both anew"
        self._tell(f"{self._device.name} has gone; {remedy}")
        while not self._reopen():
            if stopped.wait(_RETRY_SECONDS):
                return
        self._tell(f"{self._device.name} is back")
        self._hear_again()

    def _hear_again(self) -> None:
        if self._capture is None:
            return
        try:
            self._capture.reopen()
        except DeviceError as error:
            self._tell(str(error))

    def _new_output(self) -> Output:
        return Output(self.engine.mixer, self._device, self._block)

    def _reopen(self) -> bool:
        """Try once to get the device back; the tape waits where it is."""
        try:
            audio.rescan()
            self._device = audio.find_again(self._device)
            self._output = self._new_output()
            self._output.start()
        except DeviceError:
            return False
        return True
