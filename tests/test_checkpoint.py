"""Checkpoints: kept whole, and every damaged, foreign or unsafe file refused in one line."""

import copy
import dataclasses
import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from anybody import folder_of_anybody
from draws import PROVENANCE, specs, weights_of, write_model
from hypothesis import given
from hypothesis import strategies as st

from streamer.models import checkpoint
from streamer.models.checkpoint import Checkpoint, PrecisionBits, Provenance
from streamer.models.errors import CheckpointError
from streamer.models.quantisers import Quantiser
from streamer.models.specs import PredictorSpec, SampleRnnSpec, Spec, WaveNetSpec

SPEC = WaveNetSpec(dilations=(1, 2), residual=4, gate=3, skip=5, output=6, levels=8)
Edit = Callable[[dict[str, Any]], object]


def write(path: Path, spec: Spec = SPEC, seed: int = 0, **changes: Any) -> Checkpoint:
    return write_model(path, spec, seed, **changes)


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert one == other
    assert list(one.tensors) == list(other.tensors)
    for name, array in one.tensors.items():
        np.testing.assert_array_equal(array, other.tensors[name])


def fault(path: Path | str, read: Callable[[Path | str], object] = checkpoint.load) -> str:
    """What is said of a file that must be refused, without its name: one line."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{str(path)!r}: ")
    return message.removeprefix(f"{str(path)!r}: ")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a model file that loads."""
    path = tmp_path_factory.mktemp("sound") / "sound.safetensors"
    write(path)
    return path.read_bytes()


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header and its data."""
    return json.loads(content[8 : header_end(content)]), content[header_end(content) :]


def packed(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


class TestSaving:
    @given(spec=specs, seed=st.integers(0, 2**32 - 1), half=st.booleans())
    def test_round_trip(self, spec: Spec, seed: int, half: bool) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            saved = write(path, spec, seed, half=half)
            assert_same(checkpoint.load(path), saved)
            assert checkpoint.read_header(path).hash == saved.hash
        assert list(saved.tensors) == list(spec.tensors())
        for name, array in weights_of(spec, seed).items():
            kept = array.astype(np.float16 if half else np.float32)
            np.testing.assert_array_equal(saved.tensors[name], kept)

    def test_everything_is_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        quantiser = Quantiser("mulaw-floor", 8, preemphasis=0.85, scale=0.5)
        write(path, quantiser=quantiser, sample_rate=22050)
        header = checkpoint.read_header(path)
        assert (header.spec, header.quantiser, header.provenance) == (SPEC, quantiser, PROVENANCE)
        assert (header.sample_rate, header.channels) == (22050, 1)

    def test_weights_are_the_callers_own(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        weights = weights_of(SPEC, 0)
        saved = write(path, tensors=weights)
        weights["skip_bias"][:] = 7
        loaded = checkpoint.load(path)
        assert_same(loaded, saved)
        for array in loaded.tensors.values():
            assert array.dtype == np.float32
            assert array.flags.writeable
            assert array.flags.c_contiguous

    def test_a_file_is_ordinary_safetensors_with_one_key(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        saved = write(path)
        for name, array in safetensors.numpy.load_file(path).items():
            np.testing.assert_array_equal(array, saved.tensors[name])
        assert list(parts(path.read_bytes())[0]["__metadata__"]) == ["streamer"]

    def test_half_takes_half(self, tmp_path: Path) -> None:
        sizes = []
        for half in (False, True):
            write(tmp_path / "model.safetensors", half=half)
            sizes.append(len(parts((tmp_path / "model.safetensors").read_bytes())[1]))
        assert sizes == [4 * SPEC.parameters, 2 * SPEC.parameters]

    def test_the_hash_is_what_the_format_says(self, tmp_path: Path) -> None:
        """Worked out from docs/checkpoints.md alone."""
        path = tmp_path / "model.safetensors"
        saved = write(path, half=True)
        header = json.loads(parts(path.read_bytes())[0]["__metadata__"]["streamer"])
        assert header.pop("hash") == saved.hash
        text = [json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n"]
        for name, array in sorted(saved.tensors.items()):
            text += [json.dumps([name, list(array.shape)], separators=(",", ":")).encode() + b"\n"]
            text += [array.astype("<f4").tobytes()]
        assert hashlib.sha256(b"".join(text)).hexdigest() == saved.hash

    def test_the_hash_tells_all_contents_apart(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        nudged = weights_of(SPEC, 0)
        nudged["skip_bias"][0] = np.nextafter(nudged["skip_bias"][0], np.float32(9))
        changes: list[dict[str, Any]] = [
            {},
            {"tensors": nudged},
            {"sample_rate": 16001},
            {"quantiser": Quantiser("mulaw-floor", 8)},
            {"provenance": dataclasses.replace(PROVENANCE, steps=1001)},
            {"spec": dataclasses.replace(SPEC, residual_scale=0.5)},
        ]
        assert len({write(path, **change).hash for change in changes}) == len(changes)
        assert write(path).hash == write(path).hash

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"quantiser": Quantiser("mulaw", 16)}, "16 levels, the spec 8"),
            ({"sample_rate": 999}, "999 Hz"),
            ({"sample_rate": 192_001}, "192001 Hz"),
            ({"sample_rate": 16000.0}, "16000.0 Hz"),
            ({"tensors": {}}, "tensors missing: 'gate_bias'"),
            ({"tensors": weights_of(SPEC, 0) | {"more": np.zeros(1)}}, "not part of the spec: 'more'"),
            (
                {"tensors": weights_of(SPEC, 0) | {"skip_bias": np.zeros((5, 1))}},
                "'skip_bias' has shape (5, 1)",
            ),
            ({"tensors": weights_of(SPEC, 0) | {"skip_bias": np.full(5, np.nan)}}, "'skip_bias' holds"),
            ({"tensors": weights_of(SPEC, 0) | {"skip_bias": np.full(5, 1e39)}}, "'skip_bias' holds"),
            (
                {"tensors": weights_of(SPEC, 0) | {"skip_bias": np.full(5, 7e4)}, "half": True},
                "'skip_bias' holds",
            ),
        ],
    )
    def test_what_cannot_be_saved_leaves_the_old_file(
        self, tmp_path: Path, changes: dict[str, Any], named: str
    ) -> None:
        path = tmp_path / "model.safetensors"
        before = write(path)
        assert named in fault(path, lambda path: write(Path(path), **changes))
        assert_same(checkpoint.load(path), before)
        assert list(tmp_path.iterdir()) == [path]

    def test_where_nothing_can_be_saved(self, tmp_path: Path) -> None:
        nowhere, folder = tmp_path / "nowhere" / "model.safetensors", tmp_path / "folder.safetensors"
        folder.mkdir()
        assert fault(nowhere, lambda path: write(Path(path))).startswith("it cannot be written")
        assert fault(folder, lambda path: write(Path(path))).startswith("it cannot be written")
        assert list(tmp_path.rglob("*")) == [folder]

    def test_a_file_is_replaced_in_one_step(self, tmp_path: Path) -> None:
        """Whoever has the old file open goes on reading the old file."""
        path = tmp_path / "model.safetensors"
        write(path)
        before = path.read_bytes()
        with path.open("rb") as reader:
            write(path, seed=1)
            assert reader.read() == before
        assert path.read_bytes() != before

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"title": "two\nlines"}, "title"),
            ({"title": "\x1b[31mred"}, "title"),
            ({"title": "\ud800"}, "title"),
            ({"licence": "x" * 5000}, "licence"),
            ({"corpus": None}, "corpus"),
            ({"steps": -1}, "steps"),
            ({"steps": 1.5}, "steps"),
            ({"steps": True}, "steps"),
            ({"bits_per_sample": float("nan")}, "bits_per_sample"),
            ({"unigram_bits": 65}, "unigram_bits"),
            ({"lpc32_bits": "4"}, "lpc32_bits"),
            ({"temperature": 2.5}, "temperature"),
            ({"temperature": None}, "temperature"),
            ({"precision_bits": {"fp32": 5.0}}, "precision_bits"),
        ],
    )
    def test_impossible_provenance(self, changes: dict[str, Any], named: str) -> None:
        with pytest.raises(CheckpointError, match=named):
            Provenance(**changes)

    @pytest.mark.parametrize(
        ("bits", "named"),
        [
            ({"fp32": None}, "fp32"),
            ({"fp32": 5.0, "bf16": -1}, "bf16"),
            ({"fp32": 5.0, "int8": float("nan")}, "int8"),
            ({"fp32": 5.0, "int8dot": "5"}, "int8dot"),
        ],
    )
    def test_impossible_prices(self, bits: dict[str, Any], named: str) -> None:
        with pytest.raises(CheckpointError, match=f"precision_bits, {named}, is"):
            PrecisionBits(**bits)


PRICED = dataclasses.replace(PROVENANCE, precision_bits=PrecisionBits(5.5, bf16=5.51, int8dot=5.52))


class TestDescribing:
    @pytest.mark.parametrize("half", [False, True])
    def test_only_the_header_changes(self, tmp_path: Path, half: bool) -> None:
        path = tmp_path / "model.safetensors"
        before = write(path, half=half)
        header, weights = parts(path.read_bytes())
        described = checkpoint.describe(path, PRICED)
        assert_same(checkpoint.load(path), described)
        assert described == dataclasses.replace(before, provenance=PRICED, hash=described.hash)
        assert described.hash != before.hash
        header_after, weights_after = parts(path.read_bytes())
        assert weights_after == weights
        del header["__metadata__"], header_after["__metadata__"]
        assert header_after == header
        assert list(tmp_path.iterdir()) == [path]

    def test_prices_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "model.safetensors"
        write(path, provenance=PRICED)
        assert checkpoint.load(path).provenance == PRICED
        assert checkpoint.describe(path, PROVENANCE).provenance.precision_bits is None
        assert checkpoint.read_header(path).provenance.precision_bits is None

    def test_a_link_goes_on_leading_to_the_file(self, tmp_path: Path) -> None:
        path, link = tmp_path / "model.safetensors", tmp_path / "link.safetensors"
        write(path)
        link.symlink_to(path)
        checkpoint.describe(link, PRICED)
        assert link.is_symlink()
        assert checkpoint.load(path).provenance == PRICED

    def test_what_is_damaged_is_not_given_a_sound_hash(self, tmp_path: Path, sound: bytes) -> None:
        path = tmp_path / "model.safetensors"
        damaged = sound[:-1] + bytes([sound[-1] ^ 1])
        path.write_bytes(damaged)
        assert "does not match its hash" in fault(path, lambda path: checkpoint.describe(path, PRICED))
        assert path.read_bytes() == damaged

    @pytest.mark.parametrize("forbidden", ["file", "folder"])
    def test_what_may_not_be_written_is_left(self, forbidden: str) -> None:
        with folder_of_anybody() as folder:
            path = folder / "model.safetensors"
            write(path)
            before = path.read_bytes()
            (path if forbidden == "file" else folder).chmod(0o555)
            message = fault(path, lambda path: checkpoint.describe(path, PRICED))
            assert message == "it cannot be written: Permission denied"
            assert path.read_bytes() == before
            assert list(folder.iterdir()) == [path]


class Sentinel:
    """Unpickling this leaves a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


class TestForeignFiles:
    @pytest.fixture(params=[checkpoint.load, checkpoint.read_header], autouse=True)
    def read(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    @pytest.mark.parametrize(
        ("content", "named"),
        [
            (b"", "empty, damaged or not a .safetensors file"),
            (b"\x08\0\0\0\0\0\0\0", "empty, damaged or not"),
            (b'{"architecture": "wavenet"}', "not a .safetensors file"),
            (b"wavenet/causal_layer/filter" * 99, "not a .safetensors file"),
            (b"RIFF\x24\0\0\0WAVEfmt ", "not a .safetensors file"),
            (b"\x0a\0\0\0\0\0\0\0{", "truncated"),
            ((2**20 + 1).to_bytes(8, "little") + b"{" + b" " * 2**20, "1048576 is the most"),
            (b"\xff" * 8 + b"{", "18446744073709551615 bytes"),
            (packed(b"{    ", b""), "does not end with a brace"),
            (packed(b'{"a" 1}', b""), "not sound JSON"),
            (packed(b'{"\xff":1}', b""), "not sound JSON"),
            (packed(b"{}\n", b""), "does not end with a brace"),
            (packed({}, b""), "another program wrote it"),
            (packed({"__metadata__": {"format": "pt"}}, b""), "another program wrote it"),
            (packed({"__metadata__": {"streamer": 1}}, b""), "another program wrote it"),
            (packed({"__metadata__": [1]}, b""), "another program wrote it"),
        ],
    )
    def test_content(self, tmp_path: Path, read: Any, content: bytes, named: str) -> None:
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        assert named in fault(path, read)

    def test_another_programs_safetensors(self, tmp_path: Path, read: Any) -> None:
        path = tmp_path / "model.safetensors"
        safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, path, {"format": "pt"})
        assert "another program wrote it" in fault(path, read)

    def test_nothing_is_unpickled(self, tmp_path: Path, read: Any) -> None:
        trace = tmp_path / "trace"
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            path = tmp_path / f"{protocol}.pkl"
            path.write_bytes(pickle.dumps(Sentinel(trace), protocol))
            named = "pickle" if protocol >= 2 else "not a .safetensors file"
            assert named in fault(path, read)
        with zipfile.ZipFile(tmp_path / "torch.pt", "w") as archive:
            archive.write(tmp_path / "2.pkl", "archive/data.pkl")
        assert "never loaded" in fault(tmp_path / "torch.pt", read)
        assert not trace.exists()

    def test_what_is_no_file(self, tmp_path: Path, read: Any) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        assert "no such file" in fault(tmp_path / "missing.safetensors", read)
        assert "this is a folder" in fault(tmp_path, read)
        assert "no ordinary file" in fault(tmp_path / "pipe", read)
        assert "no ordinary file" in fault(Path("/dev/zero"), read)
        assert "cannot be read" in fault(tmp_path / "loop", read)
        assert "cannot be the name" in fault("nul\0.safetensors", read)
        assert "cannot be read" in fault("x" * 5000, read)

    def test_a_file_too_large(self, tmp_path: Path, sound: bytes, read: Any) -> None:
        path = tmp_path / "model.safetensors"
        path.write_bytes(sound)
        os.truncate(path, 2**32 + 1)  # sparse: takes no room
        assert "at most 4294967296" in fault(path, read)


def replaced(name: str, value: object) -> Edit:
    return lambda header: header.__setitem__(name, value)


def within(part: str, name: str, value: object) -> Edit:
    return lambda header: header[part].__setitem__(name, value)


class TestDamagedHeaders:
    @pytest.mark.parametrize(
        ("edit", "named"),
        [
            (replaced("version", 2), "this program reads 1: update streamer"),
            (replaced("version", 0), "format version is 0"),
            (replaced("version", "1"), "format version is '1'"),
            (replaced("version", True), "format version is True"),
            (lambda header: header.pop("version"), "format version is None"),
            (lambda header: header.pop("spec"), "lacks, or should not have: 'spec'"),
            (replaced("more", 1), "lacks, or should not have: 'more'"),
            (replaced("spec", []), "spec is not a JSON object"),
            (within("spec", "residual", 0), "residual is 0"),
            (within("spec", "architecture", "x" * 10_000), "is unknown"),
            (within("spec", "dilations", [2**40]), "a dilation is"),
            (within("spec", "levels", 16), "8 levels, the spec 16"),
            (within("spec", "residual_scale", 10**400), "residual_scale"),
            (within("quantiser", "kind", "a-law"), "a-law"),
            (within("quantiser", "levels", 16), "16 levels, the spec 8"),
            (lambda header: header["quantiser"].pop("scale"), "the quantiser must be"),
            (replaced("sample_rate", 999), "999 Hz"),
            (replaced("sample_rate", 192_001), "192001 Hz"),
            (replaced("sample_rate", "16000"), "'16000' Hz"),
            (replaced("sample_rate", True), "True Hz"),
            (replaced("channels", 2), "channels is 2"),
            (replaced("channels", 1.0), "channels is 1.0"),
            (replaced("provenance", None), "provenance is not a JSON object"),
            (within("provenance", "pitch", 440), "unknown fields 'pitch': update streamer"),
            (within("provenance", "precision_bits", 5), "precision_bits are no JSON object with fp32"),
            (
                within("provenance", "precision_bits", {"int8": 5}),
                "precision_bits are no JSON object with fp32",
            ),
            (within("provenance", "precision_bits", {"fp32": 5, "int4": 6}), "unknown fields 'int4'"),
            (within("provenance", "precision_bits", {"fp32": "5"}), "precision_bits, fp32, is '5'"),
            (within("provenance", "title", "\x1b]0;"), "title"),
            (within("provenance", "temperature", "hot"), "temperature"),
            (within("provenance", "steps", 1001), "does not match its hash"),
            (within("spec", "residual_scale", 0.5), "does not match its hash"),
            (replaced("hash", "0" * 64), "does not match its hash"),
            (replaced("hash", None), "does not match its hash"),
            (within("spec", "skip", 6), "tensor 'skip_weight' has shape (6, 5): the spec needs (6, 6)"),
            (within("spec", "input_bias", True), "tensors missing: 'input_bias'"),
            (within("spec", "gate_bias", False), "tensors not part of the spec: 'gate_bias'"),
        ],
    )
    def test_ours(self, tmp_path: Path, sound: bytes, edit: Edit, named: str) -> None:
        outer, data = parts(sound)
        header = json.loads(outer["__metadata__"]["streamer"])
        edit(header)
        outer["__metadata__"]["streamer"] = json.dumps(header)
        path = tmp_path / "model.safetensors"
        path.write_bytes(packed(outer, data))
        message = fault(path)
        assert named in message
        assert len(message) < 400

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("", "not sound JSON"),
            ("[]", "not a JSON object"),
            ("{", "not sound JSON"),
            ('{"version":1', "not sound JSON"),
            ("[" * 100_000, "nested too deeply"),
            ('{"a":' * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
            ('{"version":NaN}', "NaN is not a finite number"),
            ('{"version":-Infinity}', "-Infinity is not a finite number"),
            ('{"version":1e999}', "1e999 is not a finite number"),
            ('{"version":' + "9" * 10_000 + "}", "not sound JSON"),
            ('{"version":1,"version":1}', "a key appears twice"),
        ],
    )
    def test_texts(self, tmp_path: Path, sound: bytes, text: str, named: str) -> None:
        outer, data = parts(sound)
        outer["__metadata__"]["streamer"] = text
        path = tmp_path / "model.safetensors"
        path.write_bytes(packed(outer, data))
        assert named in fault(path)

    @pytest.mark.parametrize(
        ("edit", "named"),
        [
            (lambda outer: outer.pop("skip_bias"), "leaves a gap"),
            (replaced("more", {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}), "spec: 'more'"),
            (replaced("skip_bias", None), "entry for tensor 'skip_bias'"),
            (replaced("skip_bias", "F32"), "entry for tensor 'skip_bias'"),
            (lambda outer: outer["skip_bias"].pop("shape"), "entry for tensor 'skip_bias'"),
            (within("skip_bias", "more", 1), "entry for tensor 'skip_bias'"),
            (within("skip_bias", "shape", 5), "entry for tensor 'skip_bias'"),
            (within("skip_bias", "shape", ["5"]), "entry for tensor 'skip_bias'"),
            (within("skip_bias", "shape", [-5]), "entry for tensor 'skip_bias'"),
            (within("skip_bias", "shape", [5.0]), "entry for tensor 'skip_bias'"),
            (within("skip_bias", "shape", [2**40]), "entry for tensor 'skip_bias'"),
            (within("skip_bias", "shape", [2**31, 2**31]), "size that its shape does not fit"),
            (within("skip_bias", "shape", [1, 5]), "'skip_bias' has shape (1, 5)"),
            (within("skip_bias", "data_offsets", [0]), "entry for tensor 'skip_bias'"),
            (within("skip_bias", "data_offsets", [20, 0]), "'skip_bias' overlaps another or leaves a gap"),
            (within("skip_bias", "data_offsets", [0, 20]), "overlaps another or leaves a gap"),
            (within("skip_bias", "dtype", "F64"), "stored as 'F64': it must be F32 or F16"),
            (within("skip_bias", "dtype", "BF16"), "stored as 'BF16'"),
            (within("skip_bias", "dtype", ["F32"]), "stored as ['F32']"),
            (within("skip_bias", "dtype", "F16"), "size that its shape does not fit"),
        ],
    )
    def test_the_containers(self, tmp_path: Path, sound: bytes, edit: Edit, named: str) -> None:
        outer, data = parts(sound)
        edit(outer)
        path = tmp_path / "model.safetensors"
        path.write_bytes(packed(outer, data))
        assert named in fault(path)


class TestDamagedFiles:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_weights_that_are_no_numbers_are_named(self, tmp_path: Path, sound: bytes, value: float) -> None:
        outer, data = parts(sound)
        begin = outer["output1_bias"]["data_offsets"][0]
        broken = data[:begin] + np.float32(value).tobytes() + data[begin + 4 :]
        path = tmp_path / "model.safetensors"
        path.write_bytes(packed(outer, broken))
        assert "'output1_bias' holds weights that are not finite" in fault(path)

    def test_listing_reads_no_weights(self, tmp_path: Path, sound: bytes) -> None:
        path = tmp_path / "model.safetensors"
        path.write_bytes(sound[:-4] + b"\0\0\0\0")
        assert "does not match its hash" in fault(path)
        assert checkpoint.read_header(path).provenance == PROVENANCE

    def test_lengths(self, tmp_path: Path, sound: bytes) -> None:
        path = tmp_path / "model.safetensors"
        path.write_bytes(sound + b"\0")
        assert "1 bytes too many at its end" in fault(path)
        for kept in (len(sound) - 1, len(sound) // 2, 9):
            path.write_bytes(sound[:kept])
            assert "truncated" in fault(path)

    @given(data=st.data())
    def test_any_damage_is_refused_or_changes_nothing(self, sound: bytes, data: st.DataObject) -> None:
        """Bytes replaced, cut out, doubled or put in, in the header more often than in the weights."""
        places = st.one_of(st.integers(0, header_end(sound)), st.integers(0, len(sound)))
        content = bytearray(sound)
        for _ in range(data.draw(st.integers(1, 3))):
            begin = data.draw(places)
            end = begin + data.draw(st.one_of(st.just(1), st.integers(0, len(sound))))
            content[begin:end] = data.draw(st.one_of(st.binary(max_size=4), st.just(sound[begin:end] * 2)))
        with TemporaryDirectory() as folder:
            assert_refused_or_same(Path(folder) / "damaged.safetensors", bytes(content), sound)

    def test_no_byte_can_be_flipped(self, tmp_path: Path, sound: bytes) -> None:
        """Every byte of the header, and some of the weights; one bit in turn."""
        for place in [*range(header_end(sound)), *range(header_end(sound), len(sound), 37)]:
            content = bytearray(sound)
            content[place] ^= 1 << place % 8
            assert_refused_or_same(tmp_path / "damaged.safetensors", bytes(content), sound)


def header_end(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def assert_refused_or_same(path: Path, content: bytes, sound: bytes) -> None:
    """JSON can write a number in several ways, so a few changes change nothing; all others are refused."""
    path.write_bytes(content)
    try:
        loaded = checkpoint.load(path)
    except CheckpointError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017, since either outcome is right
    else:
        path.write_bytes(sound)
        assert_same(loaded, checkpoint.load(path))


def test_headers_are_values(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved = write(path)
    assert copy.copy(checkpoint.read_header(path)) == checkpoint.read_header(path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        saved.sample_rate = 8000  # type: ignore[misc]


DOCUMENT = Path(__file__).parents[1] / "docs" / "checkpoints.md"


def test_the_documents_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = DOCUMENT.read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(program, names)
    assert names["model"] == checkpoint.load(tmp_path / "mine.safetensors")


@pytest.mark.parametrize(
    "kind", [WaveNetSpec, SampleRnnSpec, PredictorSpec, Quantiser, Provenance, PrecisionBits]
)
def test_the_document_names_every_field(kind: type[Any]) -> None:
    text = DOCUMENT.read_text()
    assert [field.name for field in dataclasses.fields(kind) if f"`{field.name}`" not in text] == []


@given(specs)
def test_the_document_names_every_tensor(spec: Spec) -> None:
    text = DOCUMENT.read_text()
    names = {re.sub(r"rnn\d", "rnnL", re.sub(r"tier\d", "tierN", name)) for name in spec.tensors()}
    assert [name for name in names if f"`{name}`" not in text] == []
