"""A file of any format, rate and number of channels becomes mono samples at one rate, block by block."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sounds import BAD, RATE, tone

from streamer.models import clips
from streamer.models.clips import at_rate, opened, read_clip, resampled
from streamer.models.errors import CorpusError

# --- one file


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_a_tone_keeps_its_pitch_length_and_level_at_the_corpuss_rate(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1, rate), rate)
    samples = read_clip(tmp_path / "a.wav", RATE)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(RATE, abs=2)
    spectrum = np.abs(np.fft.rfft(samples[:RATE], RATE))  # bins of 1 Hz
    assert spectrum.argmax() == 440
    np.testing.assert_allclose(samples[1000:15000], tone(1)[1000:15000], atol=2e-3)


def test_audio_at_the_corpuss_rate_is_left_as_it_is(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, RATE).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_clip(tmp_path / "a.wav", RATE), noise)


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.stack([tone(1), np.zeros(RATE)], axis=1), RATE)
    np.testing.assert_allclose(read_clip(tmp_path / "a.flac", RATE), tone(1, level=0.25), atol=1e-4)


def test_what_is_above_the_new_rates_half_is_removed_not_folded_down(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1, 44100, hertz=10000), 44100)
    assert np.abs(read_clip(tmp_path / "a.wav", RATE)[1000:-1000]).max() < 1e-3


def write_with_ffmpeg(path: Path, codec: str, samples: NDArray[np.float32], rate: int) -> None:
    """Encode samples (T, channels)."""
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        fifo = av.AudioFifo()
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T, np.float32), "fltp", layout)
        frame.sample_rate = rate
        fifo.write(frame)
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
        while part := fifo.read(1024, partial=True):
            for converted in resampler.resample(part):
                converted.pts = None
                container.mux(stream.encode(converted))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.caf", "pcm_s16le"), ("a.tta", "tta")])
def test_what_libsndfile_does_not_know_ffmpeg_reads(tmp_path: Path, name: str, codec: str) -> None:
    stereo = np.stack([tone(1, 44100), np.zeros(44100)], axis=1)
    write_with_ffmpeg(tmp_path / name, codec, stereo.astype(np.float32), 44100)
    samples = read_clip(tmp_path / name, RATE)
    assert len(samples) == pytest.approx(RATE, rel=0.15)  # encoders pad
    assert np.abs(np.fft.rfft(samples[:RATE], RATE)).argmax() == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(samples[4000:12000] ** 2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.03)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3", "a.aiff", "a.flac"])
def test_what_libsndfile_knows_is_read(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, tone(1, 44100), 44100)
    samples = read_clip(tmp_path / name, RATE)
    assert np.abs(np.fft.rfft(samples[:RATE], RATE)).argmax() == pytest.approx(440, abs=1)


# --- in blocks


def test_a_file_is_read_in_blocks_of_bounded_size(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((300_000, 6)), RATE)
    with opened(tmp_path / "a.wav") as file:
        sizes = [block.size for block in file.blocks]
        assert (file.rate, file.channels) == (RATE, 6)
    assert sum(sizes) == 1_800_000
    assert max(sizes) <= clips._BLOCK


@given(st.sampled_from([8000, 11025, 44100, 48000]), st.lists(st.integers(0, 20_000), max_size=8))
def test_blocks_resample_as_the_whole_does(rate: int, sizes: list[int]) -> None:
    whole = np.random.default_rng(0).uniform(-1, 1, sum(sizes)).astype(np.float32)
    blocks = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []
    joined = np.concatenate([np.zeros(0, np.float32), *resampled(blocks, rate, RATE)])
    if len(whole):
        expected = at_rate(whole, rate, RATE) if len(joined) else joined
        np.testing.assert_allclose(joined, expected, atol=1e-5)


# --- what is no audio


@pytest.mark.parametrize(("write", "reason"), BAD.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_file_that_will_not_do_is_named(tmp_path: Path, write: Callable[[Path], None], reason: str) -> None:
    write(tmp_path / "bad.wav")
    with pytest.raises(CorpusError, match=rf"bad\.wav: .*{reason}") as caught:
        read_clip(tmp_path / "bad.wav", RATE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no audio", b"\x00" * 5000])
def test_a_file_that_ffmpeg_cannot_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.m4a").write_bytes(content)
    with pytest.raises(CorpusError, match=r"bad\.m4a: cannot be read as audio") as caught:
        read_clip(tmp_path / "bad.m4a", RATE)
    assert "\n" not in str(caught.value)


def test_a_film_without_sound_holds_no_audio(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, width=32, height=32)
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(CorpusError, match=r"film\.mp4: holds no audio"):
        read_clip(tmp_path / "film.mp4", RATE)
