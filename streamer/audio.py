"""Sound devices: which there are, which one is meant, and a stream that lets a mixer be heard.

    device = find_device("usb")                    by index, by part of the name, or the default
    format = settle(device)                        the rate and the channels that the device takes
    mixer = Mixer(format.rate, format.channels)
    output = Output(mixer, device)                 one stream, used once
    output.start()
    while output.alive: ...
    if not output.stop():                          the sound server died under the stream
        leave(0)

A dead stream may be stopped and another `Output` started on the same mixer, which goes on where it was.
PortAudio is loaded by the first function that needs it, since importing `sounddevice` opens the sound
system.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from streamer.kernels.atomics import clock_ns
from streamer.mixer import Mixer, Plug, compiled_callback
from streamer.models.errors import DeviceError

LONGEST_SILENCE_NS = 2_000_000_000  # a device that has not called for so long has vanished
_INSTALL = {
    "debian": "sudo apt install libportaudio2",
    "ubuntu": "sudo apt install libportaudio2",
    "fedora": "sudo dnf install portaudio",
    "rhel": "sudo dnf install portaudio",
    "arch": "sudo pacman -S portaudio",
    "darwin": "brew install portaudio",
}

# PortAudio calls a stream's callback until the stream is closed, even if everybody has forgotten it: freeing
# the tape before would be a crash.
_open_streams: list[Any] = []
# All streams of a sound server share one line to it: two that closed at once took each other's answers.
_one_closes = threading.Lock()


@dataclass(frozen=True)
class Device:
    """An output device as PortAudio lists it.

    Attributes:
        index: PortAudio's number, good until devices come or go.
        name: the name that the system gives it.
        host_api: the way there: ALSA, JACK, Core Audio.
        outputs: most channels.
        rate: the rate in Hz that it runs at unless asked otherwise.
        latency: seconds between the callback and the ear, as the driver claims; JACK's claim means nothing.
        is_default: the system's choice.
    """

    index: int
    name: str
    host_api: str
    outputs: int
    rate: int
    latency: float
    is_default: bool = False

    def __str__(self) -> str:
        return f"{self.index} {self.name} ({self.host_api})"


@dataclass(frozen=True)
class Format:
    """What a stream is opened with: rate in Hz, and channels."""

    rate: int
    channels: int


def devices() -> list[Device]:
    """All devices that can play.

    Raises:
        DeviceError: PortAudio is not installed or does not start.
    """
    sounddevice = load_sounddevice()
    host_apis = [api["name"] for api in sounddevice.query_hostapis()]
    default = sounddevice.default.device[1]
    return [
        Device(
            index=info["index"],
            name=info["name"],
            host_api=host_apis[info["hostapi"]],
            outputs=info["max_output_channels"],
            rate=round(info["default_samplerate"]),
            latency=info["default_high_output_latency"],
            is_default=info["index"] == default,
        )
        for info in sounddevice.query_devices()
        if info["max_output_channels"] > 0
    ]


def find_device(wanted: str | int | None = None) -> Device:
    """The device with an index or with a part of a name (in any case), or the default one.

    Raises:
        DeviceError: there is none, or more than one; the message lists the candidates.
    """
    return pick(devices(), wanted)


def find_again(lost: Device) -> Device:
    """The device of the same name on the same host API, whatever its number is now; `rescan` first.

    Raises:
        DeviceError: it is not there.
    """
    for device in devices():
        if (device.name, device.host_api) == (lost.name, lost.host_api):
            return device
    raise DeviceError(f"{lost.name} ({lost.host_api}) is gone: connect it again, or choose another device")


def pick(candidates: Sequence[Device], wanted: str | int | None) -> Device:
    """`find_device` among these devices."""
    if not candidates:
        raise DeviceError("no sound device: connect one, start JACK, or render to a file")
    if wanted is None:
        return next((device for device in candidates if device.is_default), candidates[0])
    number, name = str(wanted).strip(), str(wanted).strip().casefold()
    matches = (
        [device for device in candidates if str(device.index) == number]
        or [device for device in candidates if device.name.casefold() == name]
        or [device for device in candidates if name in device.name.casefold()]
    )
    if len(matches) == 1:
        return matches[0]
    problem = f"{len(matches)} devices match" if matches else "no device matches"
    listed = "; ".join(map(str, matches or candidates))
    raise DeviceError(f"{problem} {str(wanted)!r}: choose the number of one of these: {listed}")


def settle(device: Device, rate: int | None = None, channels: int | None = None) -> Format:
    """The rate and channels to open a device with: its own rate and one or two channels, if not asked.

    Raises:
        DeviceError: the device refuses them.
    """
    chosen = Format(rate or device.rate, channels or min(2, device.outputs))
    sounddevice = load_sounddevice()
    try:
        sounddevice.check_output_settings(device.index, chosen.channels, "float32", samplerate=chosen.rate)
    except sounddevice.PortAudioError as problem:
        refused = f"{chosen.rate} Hz on {chosen.channels} channels"
        offered = f"{device.rate} Hz, 1 to {device.outputs} channels"
        raise DeviceError(
            f"{device} refuses {refused} ({in_one_line(problem)}): it offers {offered}"
        ) from problem
    return chosen


class Output:
    """One stream to a device, from `start` to `stop`; one at a time on the same mixer.

    Args:
        mixer: what is heard; its rate and channels are those that the device is opened with.
        device: from `find_device`.
        block: frames a callback; 0 leaves the choice to the device.
        latency: seconds that PortAudio is asked to buffer, or "low" or "high": what the driver calls so.
            A tape's lead is longer than either, so the default is the one that is safe.
    """

    def __init__(self, mixer: Mixer, device: Device, block: int = 0, latency: float | str = "high") -> None:
        self.mixer = mixer
        self.device = device
        self._block, self._latency = block, latency
        self._stream: Any = None
        self._started_ns = 0

    def start(self) -> None:
        """Opens the device and fades in.

        Raises:
            DeviceError: the device refuses, or its sound server died under an earlier stream.
        """
        sounddevice = load_sounddevice()
        self.mixer.restart_clock()
        try:
            self._stream = self._open()
            self._started_ns = clock_ns()
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as problem:
            self.stop()
            reason = in_one_line(problem)
            raise DeviceError(
                f"{self.device} cannot be opened ({reason}): choose another device"
            ) from problem
        self.mixer.fade_in()

    @property
    def alive(self) -> bool:
        """Whether the device asks for sound: False before `start`, after `stop`, and once it has vanished."""
        if self._stream is None or not is_active(self._stream):
            return False
        last_sign = max(self._started_ns, self.mixer.counters().last_callback_ns)
        return clock_ns() - last_sign < LONGEST_SILENCE_NS

    @property
    def latency(self) -> float:
        """Seconds of buffer that PortAudio really uses, as the driver claims; 0 while not open."""
        return float(self._stream.latency) if self._stream is not None else 0.0

    def stop(self, timeout: float = 0.8) -> bool:
        """Fades out and closes, in at most about `timeout` seconds.

        Returns:
            False when PortAudio hangs, as it does when a sound server has died under it. Nothing is lost by
            going on, but the process cannot end in the ordinary way then: see `leave`.
        """
        if self._stream is None:
            return True
        deadline = time.monotonic() + timeout
        self.mixer.fade_out()
        if self.alive:
            self.mixer.wait_silent(timeout / 2)
        stream, self._stream = self._stream, None
        stream.kept.pull()
        return close_stream(stream, max(0.0, deadline - time.monotonic()))

    def _open(self) -> Any:
        return open_stream(
            "output",
            self.device.host_api,
            compiled_callback(),
            Plug(self.mixer),
            device=self.device.index,
            samplerate=self.mixer.rate,
            channels=self.mixer.channels,
            blocksize=self._block,
            latency=self._latency,
        )


def open_stream(kind: str, host_api: str, callback: Any, kept: Any, **settings: Any) -> Any:
    """A stream with a compiled callback, not yet started.

    The callback is a raw pointer, as python-rtmixer hands over its C one.

    kind: input or output. host_api: the device's. kept: what the callback is given, by its `address`, and
    what stays alive as long as it may be called. settings: device, samplerate, channels and so on, as
    sounddevice takes them, whose errors are raised.

    Raises:
        DeviceError: the host API's sound server died under an earlier stream.
    """
    if any(stream.closing and stream.host_api == host_api for stream in _open_streams):
        raise DeviceError(
            f"{host_api} hangs since its sound server died: "
            "start the program anew, or choose a device of another kind"
        )
    sounddevice = load_sounddevice()
    ffi = sounddevice._ffi

    class CompiledStream(sounddevice._StreamBase):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.kept, self.host_api, self.closing = kept, host_api, False
            super().__init__(
                kind,
                dtype="float32",
                callback=ffi.cast("PaStreamCallback*", callback.address),
                userdata=ffi.cast("void*", kept.address),
                **settings,
            )

    stream = CompiledStream()
    _open_streams.append(stream)
    return stream


def is_active(stream: Any) -> bool:
    """Whether a stream of `open_stream` plays or hears, as far as PortAudio knows."""
    try:
        return bool(stream.active)
    except load_sounddevice().PortAudioError:  # a stream that cannot be asked is not playing
        return False


def close_stream(stream: Any, timeout: float) -> bool:
    """Close a stream of `open_stream` in at most `timeout` seconds; False where PortAudio hangs."""

    def close() -> None:
        with _one_closes:
            if is_active(stream):
                stream.stop()  # lets the faded end be heard
            stream.close()
            _open_streams.remove(stream)

    stream.closing = True
    closer = threading.Thread(target=close, name="streamer-closer", daemon=True)
    closer.start()
    closer.join(timeout)
    return not closer.is_alive()


def rescan() -> None:
    """Lets PortAudio look for devices again; numbers may change. Does nothing while a stream is open."""
    sounddevice = load_sounddevice()
    if not _open_streams:
        sounddevice._terminate()
        sounddevice._initialize()


def leave(status: int) -> NoReturn:
    """Ends the process at once: the last resort after `stop` was False, for PortAudio hangs at exit too."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def install_command(systems: Iterable[str]) -> str:
    """The command that installs PortAudio, for the first known one of these systems' names."""
    known = (_INSTALL[system] for system in systems if system in _INSTALL)
    return next(known, "install the package of PortAudio (libportaudio2, portaudio)")


def _this_system() -> list[str]:
    """Names of this system, the most exact first."""
    if platform.system() != "Linux":
        return [platform.system().lower()]
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return []
    return [release.get("ID", ""), *release.get("ID_LIKE", "").split()]


def load_sounddevice() -> Any:
    """The module, whose import opens the sound system.

    Raises:
        DeviceError: PortAudio is not installed or does not start.
    """
    try:
        import sounddevice
    except OSError as problem:  # its way to say that the library is missing
        command = install_command(_this_system())
        raise DeviceError(f"PortAudio is missing ({in_one_line(problem)}): {command}") from problem
    except Exception as problem:  # its PortAudioError cannot be named before it is imported
        reason = in_one_line(problem)
        raise DeviceError(f"the sound system does not start ({reason}): check ~/.asoundrc") from problem
    return sounddevice


def in_one_line(problem: Exception) -> str:
    """PortAudio's first words about it, without the number."""
    return " ".join(str(problem.args[0] if problem.args else problem).split())
