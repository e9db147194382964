"""`streamer eval`: bits as training has them, a performance watched over, and an exit code that says so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playing import SPECS, save_model
from tones import RATE, write_tones

from streamer import evaluation, price, solo
from streamer.cli import main
from streamer.models import checkpoint
from streamer.models.baselines import unigram_bits
from streamer.models.quantisers import Quantiser


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Eight files of half a second, one of which is for tests, and one that cannot be read."""
    folder = write_tones(tmp_path / "tones", files=24)
    (folder / "broken.wav").write_bytes(b"RIFF, but not really")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, SPECS["wave"], RATE)
    return path


def evaluated(
    capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, dict[str, Any], list[str]]:
    code = main(["eval", *map(str, arguments), "--json"])
    out, aside = capsys.readouterr()
    return code, json.loads(out), aside.splitlines()


def test_it_says_what_was_measured(corpus: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (model, corpus, "--minutes", 0.1, "--temperatures", "0.5,1", "--seed", 3)
    code, found, aside = evaluated(capsys, *arguments)
    loaded = checkpoint.load(model)
    test = price.held_out([corpus], loaded, lambda _: None)
    assert found["hash"] == loaded.hash
    assert found["knowledge"]["seconds"] == len(test) / RATE
    bits = found["knowledge"]["precisions"]["fp32"]
    assert bits == round(price.bits("model", loaded, test, "fp32"), 5)
    learned = price.corpus_of(corpus, loaded, lambda _: None).training.codes
    assert found["knowledge"]["unigram"] == pytest.approx(unigram_bits(learned, test, 256))
    assert found["knowledge"]["lpc32"] < found["knowledge"]["unigram"]
    assert [take["temperature"] for take in found["takes"]] == [0.5, 1.0]
    assert all(take["findings"]["seconds"] == pytest.approx(6) for take in found["takes"])
    assert all(take["findings"]["in_time"] is None for take in found["takes"])  # it has no clock
    assert "broken.wav" in aside[0]
    assert code == (1 if found["takes"][1]["faults"] else 0)


def test_a_model_with_a_clock_is_told_whether_it_keeps_time(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "model.safetensors", SPECS["rnn"], RATE)
    arguments = (tmp_path / "model.safetensors", corpus, "--minutes", 0.1, "--temperatures", "1")
    found = evaluated(capsys, *arguments)[1]
    assert -0.2 < found["takes"][0]["findings"]["in_time"] < 1
    main(["eval", *map(str, arguments)])
    assert "in time" in capsys.readouterr().out


def test_what_is_watched_is_what_is_rendered(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    arguments = (
        "--model",
        str(model),
        "--seconds",
        "2",
        "--seed",
        "5",
        "--temperature",
        "0.8",
        "--gain",
        "0.01",
    )
    assert main(["render", str(out), *arguments]) == 0
    rendered, rate = soundfile.read(out)
    voice = solo.new_soloist("model", checkpoint.load(model), 0.8, 5)
    played = np.concatenate(list(solo.blocks(voice, 2)))
    assert rate == RATE
    middle = slice(RATE // 2, 3 * RATE // 2)  # between the fades; 24 bits are kept of it
    np.testing.assert_allclose(rendered[middle], 0.01 * played[middle], atol=1e-6)


def test_a_model_that_is_silent_fails(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "silent.safetensors"
    silent_model(path)
    picture = tmp_path / "picture.png"
    assert main(["eval", str(path), str(corpus), "--minutes", "0.2", "--plot", str(picture)]) == 1
    out, aside = capsys.readouterr()
    assert aside.splitlines()[-1] == "Temperature 1.1: silent for 12.0 s: at most 5."
    assert out.count("temperature 1.1") == 2  # how it sounds, and what was watched over
    assert "linear, order 32" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def silent_model(path: Path) -> None:
    """It is sure of the code of silence."""
    made = save_model(path, SPECS["wave"], RATE)
    tensors = {name: np.zeros_like(array) for name, array in made.tensors.items()}
    quantiser = Quantiser(levels=256)
    tensors["output2_bias"][quantiser.silence] = 30
    checkpoint.save(
        path,
        spec=made.spec,
        quantiser=quantiser,
        sample_rate=RATE,
        tensors=tensors,
        provenance=made.provenance,
    )


def test_its_own_temperature_is_what_counts() -> None:
    assert evaluation.around(1.0) == [0.9, 1.0, 1.1]
    assert evaluation.around(1.95) == [1.85, 1.95, 2.0]
    assert evaluation.around(0.05) == [0.0, 0.05, 0.15]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{model}", "{corpus}", "--minutes", "100000"), "at most 1440"),
        (("{model}", "nowhere"), "there is no such folder of audio"),
        (("flute", "{corpus}"), "choose one of"),
        (("{model}", "{short}"), "are needed, add some"),
        (("{model}", "{corpus}", "--plot", "picture.pdf"), "end the name in .png"),
        (("{model}", "{corpus}", "--plot", "nowhere/picture.png"), "make it first"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    arguments: tuple[str, ...], said: str, corpus: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = write_tones(corpus.parent / "short", files=1)
    names = {"model": model, "corpus": corpus, "short": short}
    assert main(["eval", *(argument.format(**names) for argument in arguments)]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
