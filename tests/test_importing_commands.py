"""`streamer import` and `streamer logits`: what they print and write; and what is imported plays."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from anybody import folder_of_anybody
from foreigners import FOREIGNERS, imported
from playing import PATIENCE

from streamer import logits as logits_command
from streamer.cli import main
from streamer.kernels.stepper import Stepper
from streamer.models import checkpoint
from streamer.models.checkpoint import Checkpoint

TOLERANCE = 1e-4
PLAYED = ("prism-lstm-skip", "ibab")
"""One of each architecture."""


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that succeeds prints."""
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a command that fails."""
    assert main([str(argument) for argument in arguments]) == 2
    out, line = capsys.readouterr()
    assert out == ""
    assert line.startswith("streamer: ")
    assert line.count("\n") == 1
    return line


def options_of(name: str) -> list[str]:
    """What the command line has to say beside the path of one of `FOREIGNERS`."""
    given = FOREIGNERS[name].given
    options = ["--rate", str(given.rate)] if given.rate else []
    dilations = ",".join(map(str, given.dilations or ()))
    return [*options, *(["--dilations", dilations] if dilations else [])]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Imported models, one of each architecture, as files."""
    folder, files = tmp_path_factory.mktemp("imported"), dict[str, Path]()
    for name in PLAYED:
        files[name] = folder / f"{name}.safetensors"
        arguments = ["import", str(FOREIGNERS[name].source), str(files[name]), *options_of(name)]
        assert main(arguments) == 0
    return files


# --- import -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOREIGNERS)
def test_import_and_logits_give_what_its_program_gave(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source, model, known = FOREIGNERS[name].source, tmp_path / "m.safetensors", FOREIGNERS[name].known()
    out = told(capsys, "import", source, model, *options_of(name))
    assert FOREIGNERS[name].source.name in out.splitlines()[0]
    assert out.endswith(f"{model} is written; hear it with: streamer play {model}\n")
    np.save(tmp_path / "codes.npy", known.codes[known.first_t :])
    np.save(tmp_path / "history.npy", known.codes[: known.first_t])
    command = ["logits", model, tmp_path / "codes.npy", tmp_path / "logits.npy"]
    command += ["--history", tmp_path / "history.npy"]
    if known.condition is not None:
        command += ["--condition", ",".join(map(str, np.atleast_1d(known.condition).tolist()))]
    told(capsys, *command)
    logits = np.load(tmp_path / "logits.npy")
    assert logits.dtype == np.float32
    assert np.abs(logits - known.logits).max() < TOLERANCE


def test_what_is_written_knows_where_it_comes_from(played: dict[str, Path]) -> None:
    for name, path in played.items():
        model, found = checkpoint.load(path), imported(name)
        assert (model.spec, model.quantiser, model.sample_rate) == (
            found.spec,
            found.quantiser,
            found.sample_rate,
        )
        assert model.provenance == found.provenance
        assert FOREIGNERS[name].source.name in model.provenance.origin
        assert found.family.home in model.provenance.origin


def test_each_default_that_is_taken_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = shutil.copy(FOREIGNERS["dadabots-mulaw"].source, tmp_path / "params.pkl")
    line = refused(capsys, "import", source, tmp_path / "m.safetensors")
    assert "--rate (default 16000) and --quantiser (default linear-mehri, or mulaw-mehri)" in line
    arguments = ["import", source, tmp_path / "m.safetensors", "--family", "dadabots", "--defaults"]
    out = told(capsys, *arguments)
    assert "rate: 16000, the program's default" in out
    assert "quantiser: mulaw-mehri, the program's default" in out


@pytest.mark.parametrize("name", ["nv-wavenet", "ibab-conditioned"])
def test_a_condition_is_held_for_good(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    known, model = FOREIGNERS[name].known(), tmp_path / "m.safetensors"
    condition = known.condition
    if isinstance(condition, np.ndarray):
        condition = tmp_path / "condition.npy"
        np.save(condition, known.condition)
    told(capsys, "import", FOREIGNERS[name].source, model, "--condition", condition)
    np.save(tmp_path / "codes.npy", known.codes)
    told(capsys, "logits", model, tmp_path / "codes.npy", tmp_path / "logits.npy")
    assert np.abs(np.load(tmp_path / "logits.npy")[1:] - known.logits).max() < TOLERANCE


def test_dry_run_shows_all_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], played: dict[str, Path]
) -> None:
    source = FOREIGNERS["ibab"].source
    out = told(capsys, "import", source, tmp_path / "m.safetensors", "--dry-run")
    assert list(tmp_path.iterdir()) == []
    lines = out.splitlines()
    assert "ibab/tensorflow-wavenet" in lines[0]
    assert "dilations 1-2-4-8-16-1-2-4-8-16, residual 8, gate 8, skip 24" in lines[1]
    found = imported("ibab")
    assert f"{len(found.used)} tensors used:" in lines
    assert all(f"  {name}" in lines for name in found.used)
    assert (
        "  wavenet/dilated_stack/layer9/dense: it leads on from the last layer, where nothing reads it"
        in lines
    )
    assert "times real time" in lines[-2]
    assert "real time here" in lines[-1]


def test_dry_run_needs_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "name the file to write" in refused(capsys, "import", FOREIGNERS["ibab"].source)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """A model file that a failing import must leave as it was, with nothing else beside it."""
    path = tmp_path / "out" / "kept.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    yield path
    assert path.read_bytes() == b"mine"
    assert [file.name for file in path.parent.iterdir()] == ["kept.safetensors"]


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_bit_that_flipped_leaves_no_half_a_model(
    tmp_path: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(FOREIGNERS["ibab"].source.parent, tmp_path / "ibab")
    source = tmp_path / "ibab" / FOREIGNERS["ibab"].source.name
    flipped(Path(f"{source}.data-00000-of-00001"), 66_000)
    line = refused(capsys, "import", source, kept)
    assert str(source) in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate", "500"], "1000 to 192000"),
        (["--rate", "16000", "--condition", "1"], "takes no condition"),
        (["--rate", "16000", "--condition", "piano"], "an id, numbers between commas, or FILE.npy"),
        (["--rate", "16000", "--config", "nothing.json"], "no such file"),
        (["--rate", "16000", "--family", "tacotron"], "choose one of"),
        (["--rate", "16000", "--family", "mehri"], "looked for mehri"),
    ],
)
def test_what_cannot_be_imported_is_one_line_and_no_file(
    kept: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in refused(capsys, "import", FOREIGNERS["prism-gru"].source, kept, *arguments)


@pytest.mark.parametrize(
    ("out", "said"),
    [("m.pt", ".safetensors"), ("nowhere/m.safetensors", "there is no folder"), ("", ".safetensors")],
)
def test_where_it_cannot_be_written_is_told_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, said: str
) -> None:
    assert said in refused(capsys, "import", tmp_path / "nothing", tmp_path / out)


def test_a_folder_that_may_not_be_written_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    source = FOREIGNERS["ibab"].source
    with folder_of_anybody() as folder:
        folder.chmod(0o500)
        assert "cannot be written" in refused(capsys, "import", source, folder / "m.safetensors")


def test_importing_needs_none_of_those_programs(tmp_path: Path) -> None:
    """Not even PyTorch, which only training needs."""
    source = "sys.modules.update(torch=None, tensorflow=None, theano=None)"
    script = f"import sys\n{source}\nfrom streamer.cli import main\nsys.exit(main())"
    for name in ("prism-gru", "dadabots", "vincentherrmann", "keskival"):
        arguments = ["import", FOREIGNERS[name].source, tmp_path / f"{name}.safetensors", *options_of(name)]
        command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")


# --- logits -------------------------------------------------------------------------------------------------


def saved(path: Path, array: Any) -> Path:
    np.save(path, np.asarray(array))
    return path


def test_logits_start_from_rest_without_a_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], played: dict[str, Path]
) -> None:
    codes = saved(tmp_path / "codes.npy", np.arange(40, dtype=np.uint8) % 40)
    for path in played.values():
        model = checkpoint.load(path)
        told(capsys, "logits", path, codes, tmp_path / "logits.npy")
        expected = Stepper(model.spec, model.tensors).teacher_forced(np.load(codes))
        np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), expected)


def test_logits_in_blocks_are_one_stream(
    tmp_path: Path, played: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, codes = checkpoint.load(played["prism-lstm-skip"]), np.arange(50) % 40
    logits_command.write(tmp_path / "whole.npy", model, codes)
    monkeypatch.setattr(logits_command, "_BLOCK_LOGITS", 7 * 40)
    logits_command.write(tmp_path / "parts.npy", model, codes)
    np.testing.assert_array_equal(np.load(tmp_path / "parts.npy"), np.load(tmp_path / "whole.npy"))


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (np.arange(300), "from 0 to 255"),
        (np.zeros(3), "whole numbers"),
        (np.zeros((3, 3), int), "whole numbers"),
        (np.zeros(0, int), "at least one"),
        (np.array(["a"]), "whole numbers"),
        (np.array([{}]), "no sound .npy"),
    ],
)
def test_codes_that_will_not_do_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], played: dict[str, Path], codes: Any, said: str
) -> None:
    path = saved(tmp_path / "codes.npy", codes)
    assert said in refused(capsys, "logits", played["ibab"], path, tmp_path / "logits.npy")
    assert [file.name for file in tmp_path.iterdir()] == ["codes.npy"]


@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])
def test_files_that_hold_no_codes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], played: dict[str, Path], content: bytes | None
) -> None:
    path = tmp_path / "codes.npy"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in refused(capsys, "logits", played["ibab"], path, tmp_path / "logits.npy")


def test_a_condition_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "m.safetensors"
    told(capsys, "import", FOREIGNERS["nv-wavenet"].source, model)
    codes = saved(tmp_path / "codes.npy", np.arange(5))
    assert "a vector of 5 numbers" in refused(capsys, "logits", model, codes, tmp_path / "logits.npy")


# --- what is imported plays ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAYED)
def test_it_renders_the_same_sound_twice_and_another_under_other_controls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], played: dict[str, Path], name: str
) -> None:
    def sound(out: str, *controls: object) -> np.ndarray:
        told(capsys, "render", tmp_path / out, "--model", played[name], "--seconds", 0.5, *controls)
        samples, rate = sf.read(tmp_path / out)
        assert rate == checkpoint.read_header(played[name]).sample_rate
        return samples

    first, again = sound("a.wav", "--seed", 3), sound("b.wav", "--seed", 3)
    assert first.std() > 0.01
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - sound("c.wav", "--seed", 3, "--temperature", 0.2)).max() > 0.01


@pytest.mark.parametrize("name", PLAYED)
@pytest.mark.parametrize("precision", ["bf16", "int8", "int8dot"])
def test_it_steps_at_every_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], played: dict[str, Path], name: str, precision: str
) -> None:
    known = FOREIGNERS[name].known()
    codes = saved(tmp_path / "codes.npy", known.codes[known.first_t :])
    history = saved(tmp_path / "history.npy", known.codes[: known.first_t])
    command = ["logits", played[name], codes, tmp_path / "logits.npy", "--history", history]
    told(capsys, *command, "--precision", precision)
    difference = np.abs(np.load(tmp_path / "logits.npy") - known.logits)
    assert TOLERANCE < difference.max() < 0.2 * np.abs(known.logits).max()


@pytest.mark.parametrize("name", PLAYED)
def test_its_price_is_measured_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], played: dict[str, Path], name: str
) -> None:
    model = shutil.copy(played[name], tmp_path / "m.safetensors")
    rate, rng = checkpoint.read_header(model).sample_rate, np.random.default_rng(5)
    sf.write(tmp_path / "a.wav", np.sin(np.arange(2 * rate) / 9) / 2 + rng.normal(0, 0.02, 2 * rate), rate)
    told(capsys, "price", model, tmp_path / "a.wav")
    provenance = checkpoint.load(model).provenance
    assert provenance.precision_bits is not None
    assert provenance.origin == imported(name).provenance.origin


@pytest.mark.parametrize("name", PLAYED)
def test_it_goes_back_and_on_as_if_nothing_had_been(played: dict[str, Path], name: str) -> None:
    model: Checkpoint = checkpoint.load(played[name])
    stepper = Stepper(model.spec, model.tensors, slack=200)
    codes = stepper.generate(150, seed=1)
    stepper.rewind(40)
    np.testing.assert_array_equal(stepper.generate(110, seed=1), codes[40:])


def test_it_is_listed_among_the_models(
    capsys: pytest.CaptureFixture[str], played: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMER_MODELS", str(played["ibab"].parent))
    rows = {row["name"]: row for row in json.loads(told(capsys, "models", "--json"))}
    assert "of tensorflow-wavenet" in rows["ibab"]["title"]
