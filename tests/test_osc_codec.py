"""Bytes to messages and back: OSC packets, their times, and SLIP."""

import struct
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from osc_rig import bundle, encode, tags_of
from pythonosc.osc_bundle_builder import OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.slip import encode as frame

from streamer.osc_codec import (
    MAX_DATAGRAM,
    MAX_DEPTH,
    MAX_MESSAGES,
    UnreadablePacketError,
    read_packet,
    write_message,
)
from streamer.osc_tcp import Unframer

NTP_1970 = 2_208_988_800
PING = encode("/streamer/ping")


def timed(seconds: int, fraction: int, *elements: bytes) -> bytes:
    return bundle(*elements, timetag=struct.pack(">II", seconds, fraction))


def times(packet: bytes) -> list[float | None]:
    return [message.time for message in read_packet(packet)]


def test_bundles_are_bounded_in_depth_and_length() -> None:
    ping = encode("/streamer/ping")
    nested = ping
    for _ in range(MAX_DEPTH):
        nested = bundle(nested)
    assert len(read_packet(nested)) == 1
    assert len(read_packet(bundle(*[ping] * MAX_MESSAGES))) == MAX_MESSAGES
    for too_much in (bundle(nested), bundle(*[ping] * (MAX_MESSAGES + 1))):
        with pytest.raises(UnreadablePacketError):
            read_packet(too_much)


@pytest.mark.parametrize("microseconds", [0, 1, 499_999, 999_999])
def test_a_timetag_is_unix_time_to_the_microsecond(microseconds: int) -> None:
    seconds = 1_790_000_000
    fraction = (microseconds << 32) // 1_000_000
    (moment,) = times(timed(seconds + NTP_1970, fraction, PING))
    assert moment == pytest.approx(seconds + microseconds / 1e6, abs=5e-7, rel=0)


def test_python_oscs_own_bundles_have_their_time() -> None:
    now = time.time()
    builder = OscBundleBuilder(now)
    builder.add_content(OscMessage(PING))
    (moment,) = times(builder.build().dgram)
    assert moment == pytest.approx(now, abs=1e-6, rel=0)


def test_no_bundle_and_an_immediate_one_are_now() -> None:
    assert times(PING) == [None]
    assert times(timed(0, 1, PING)) == [None]
    assert times(timed(0, 0, PING)) == [None]


def test_the_count_that_begins_anew_in_2036_goes_on() -> None:
    (moment,) = times(timed(100, 0, PING))
    assert moment == 2**32 + 100 - NTP_1970


def test_each_message_has_its_own_bundles_time_and_never_an_earlier_one() -> None:
    base = 1_790_000_000
    ntp = base + NTP_1970
    packet = timed(ntp, 0, PING, timed(ntp + 2, 0, PING), timed(ntp - 2, 0, PING), timed(0, 1, PING), PING)
    assert times(packet) == [base, base + 2, base, base, base]
    assert times(bundle(PING, timed(ntp, 0, PING), PING)) == [None, base, None]


@settings(max_examples=500, deadline=None)
@given(
    packet=st.binary(max_size=300).map(lambda tail: b"/streamer/gain\0\0" + tail) | st.binary(max_size=300)
)
@example(b"#bundle\0" + bytes(8) + struct.pack(">i", -4))  # on which python-osc never ends
@example(b"/a\0\0,bs\0" + struct.pack(">i", -12))  # which sends python-osc backwards
def test_any_bytes_are_messages_or_unreadable(packet: bytes) -> None:
    try:
        messages = read_packet(packet)
    except UnreadablePacketError:
        return
    for message in messages:
        assert message.address.startswith("/")
        assert not (message.fault and message.arguments)


@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False) | st.integers() | st.booleans() | st.text(), max_size=8
    )
)
def test_what_is_written_is_read_by_python_osc_as_common_types(values: list[object]) -> None:
    packet = write_message("/streamer/status.reply", *values)
    assert set(tags_of(packet)) <= set("ifs")
    assert len(OscMessage(packet).params) == len(values)
    assert len(packet) % 4 == 0


@given(packets=st.lists(st.binary(min_size=1, max_size=60), max_size=8), data=st.data())
def test_slip_comes_apart_in_any_pieces(packets: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frame(packet) for packet in packets)
    unframer, found = Unframer(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += unframer.feed(stream[:size])
        stream = stream[size:]
    assert found == packets


@pytest.mark.parametrize("stream", [b"\xc0/a\xdbb\xc0", b"x" * (2 * MAX_DATAGRAM + 1)])
def test_what_is_not_slip_is_unreadable(stream: bytes) -> None:
    with pytest.raises(UnreadablePacketError):
        Unframer().feed(stream)
