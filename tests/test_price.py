"""What lower precision costs: measured on real audio with real models, beside torch; and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from anybody import folder_of_anybody
from numpy.typing import NDArray
from playing import SPECS, save_model
from torch.nn import functional

from streamer import price
from streamer.cli import main
from streamer.kernels.precision import PRECISIONS, resolve
from streamer.models import checkpoint
from streamer.models.checkpoint import Checkpoint, PrecisionBits
from streamer.models.errors import CorpusError
from streamer.models.samplernn import SampleRnn
from streamer.models.specs import WaveNetSpec
from streamer.models.training.forecasting import forecasts_of
from streamer.models.wavenet import WaveNet

RATE = 16_000


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five files of noisy tones, of which the last but one is for tests, and one that cannot be read."""
    folder, rng = tmp_path_factory.mktemp("album"), np.random.default_rng(5)
    for number in range(5):
        tone = np.sin(np.arange(20_000) / (5 + number)) / 2 + rng.normal(0, 0.05, 20_000)
        soundfile.write(folder / f"{number}.wav", tone, RATE)
    (folder / "0.flac").write_bytes(b"no audio")
    return folder


@pytest.fixture(params=SPECS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model file of either architecture."""
    path = tmp_path / "model.safetensors"
    save_model(path, SPECS[request.param])
    return path


def bits_in_torch(model: Checkpoint, codes: NDArray[np.int64]) -> float:
    """Bits a sample behind the first context, by the reference modules over all of it at once."""
    module = WaveNet(model.spec) if isinstance(model.spec, WaveNetSpec) else SampleRnn(model.spec)
    module.load_state_dict(
        {name.replace(".", "__"): torch.from_numpy(array) for name, array in model.tensors.items()}
    )
    context, given = model.spec.receptive_field, torch.from_numpy(codes)
    with torch.no_grad():
        if isinstance(module, WaveNet):
            logits = module(given[None, :-1], from_rest=False)[0]
        else:  # from rest, which is a frame of silence
            silence = torch.full((context,), model.quantiser.silence)
            whole = given[: len(given) // context * context]
            told = forecasts_of(model.spec, whole.numpy())[None] if model.spec.predictor else None
            logits = module(torch.cat([silence, whole])[None], None, told)[0][0, context:]
        targets = given[context : context + len(logits)]
        return float(functional.cross_entropy(logits.double(), targets)) / float(np.log(2))


def silent(_: str) -> None:
    """Hears nothing."""


# --- measuring ----------------------------------------------------------------------------------------------


def test_fp32_is_what_the_reference_gives(path: Path, album: Path) -> None:
    model = checkpoint.load(path)
    codes = price.held_out([album], model, silent)
    codes = codes[: len(codes) // 8 * 8]  # whole frames
    assert price.bits("model", model, codes, "fp32") == pytest.approx(bits_in_torch(model, codes), rel=1e-5)


def test_blocks_are_one_stream(path: Path, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = checkpoint.load(path)
    codes = price.held_out([album], model, silent)
    whole = price.bits("model", model, codes, "bf16")
    monkeypatch.setattr(price, "_BLOCK_LOGITS", 777 * model.spec.levels)
    assert price.bits("model", model, codes, "bf16") == pytest.approx(whole, abs=1e-12)


def test_every_precision_that_this_processor_has_is_measured(path: Path, album: Path) -> None:
    model, told = checkpoint.load(path), list[str]()
    codes = price.held_out([album], model, silent)
    found = price.measure("model", model, codes, told.append)
    assert told == [precision for precision in PRECISIONS if resolve(precision) == precision]
    for precision in PRECISIONS:
        bits = getattr(found, precision)
        assert (bits is not None) == (precision in told)
        assert bits is None or bits == round(price.bits("model", model, codes, precision), 5)
    assert found.int8 != found.fp32
    assert found.int8 == pytest.approx(found.fp32, abs=0.2)


def test_certainty_has_no_price(tmp_path: Path) -> None:
    """A model that knows what comes needs no bits; one that is surely wrong, many, and none is infinite."""
    model = save_model(tmp_path / "model.safetensors", SPECS["wave"])
    model.tensors["output2_weight"][:] = 0
    model.tensors["output2_bias"][:] = 0
    model.tensors["output2_bias"][7] = 1e4
    codes = np.full(1000, 7)
    assert price.bits("model", model, codes, "fp32") == 0
    assert price.bits("model", model, codes + 1, "fp32") == pytest.approx(1e4 / np.log(2), rel=1e-6)


# --- which audio --------------------------------------------------------------------------------------------


def test_of_a_folder_what_is_left_for_tests_counts_and_of_files_all(path: Path, album: Path) -> None:
    model, told = checkpoint.load(path), list[str]()
    test = price.held_out([album / "3.wav"], model, silent)
    np.testing.assert_array_equal(price.held_out([album], model, told.append), test)
    assert len(told) == 1
    assert "0.flac" in told[0]
    both = price.held_out([album / "0.wav", album], model, silent)
    np.testing.assert_array_equal(
        both, np.concatenate([price.held_out([album / "0.wav"], model, silent), test])
    )


def test_too_little_audio_is_refused(path: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(RATE // 2), RATE)
    with pytest.raises(CorpusError, match=r"0\.50 s of audio: at least 1\.0\d are needed"):
        price.held_out([tmp_path / "short.wav"], checkpoint.load(path), silent)


# --- the command --------------------------------------------------------------------------------------------


def test_prices_are_printed_and_written_and_the_weights_stay(
    path: Path, album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkpoint.load(path)
    assert main(["price", str(path), str(album)]) == 0
    after = checkpoint.load(path)
    bits = after.provenance.precision_bits
    assert bits is not None
    assert replace(after.provenance, precision_bits=None) == before.provenance
    for name, array in before.tensors.items():
        np.testing.assert_array_equal(array, after.tensors[name])
    out, aside = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["precision", "bits", "a", "sample", "against", "fp32"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:-1]}
    assert rows["fp32"] == [f"{bits.fp32:.4f}", "the", "reference"]
    assert bits.int8 is not None
    assert rows["int8"][:2] == [f"{bits.int8:.4f}", f"{bits.int8 - bits.fp32:+.4f}"]
    assert "Measured on 1.2 s" in lines[-1]
    assert "0.flac" in aside


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The last line of a command that fails."""
    assert main(["price", *map(str, arguments)]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_what_may_not_be_written_is_refused_before_it_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with folder_of_anybody() as folder:
        path, audio = folder / "model.safetensors", folder / "0.wav"
        soundfile.write(audio, np.sin(np.arange(2 * RATE)), RATE)
        save_model(path, SPECS["wave"])
        before = path.read_bytes()
        path.chmod(0o444)
        assert main(["price", str(path), str(audio)]) == 2
        assert capsys.readouterr() == (
            "",
            f"streamer: {str(path)!r}: it cannot be written: Permission denied\n",
        )
        assert path.read_bytes() == before


def test_a_model_that_is_written_anew_meanwhile_is_not_given_the_old_ones_prices(
    path: Path, album: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = price.measure

    def measure_while_training(name: str, model: Checkpoint, *others: object) -> PrecisionBits:
        checkpoint.describe(path, replace(model.provenance, steps=99))
        return measure(name, model, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(price, "measure", measure_while_training)
    assert "measure it again" in refusal(capsys, path, album)
    assert checkpoint.read_header(path).provenance.precision_bits is None


@pytest.mark.parametrize(
    ("model", "audio", "remedy"),
    [
        ("flute", "2.wav", "choose one of"),
        ("", "9.wav", "cannot be read as audio"),
        ("", "0.flac", "cannot be read as audio"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_leaves_the_file(
    path: Path, album: Path, capsys: pytest.CaptureFixture[str], model: str, audio: str, remedy: str
) -> None:
    before = path.read_bytes()
    assert remedy in refusal(capsys, model or path, album / audio)
    assert path.read_bytes() == before
