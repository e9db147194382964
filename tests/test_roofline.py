"""What a sample must read and multiply, and the least time that follows; never how fast this machine is."""

from dataclasses import replace

import pytest

from streamer import ceilings, roofline
from streamer.models.specs import SampleRnnSpec, Spec, WaveNetSpec
from streamer.roofline import Part, Roofline, multiply_adds, parts

WAVENET = WaveNetSpec((1, 2), residual=16, gate=32, skip=48, output=64, levels=80, input_kernel=2)
SAMPLERNN = SampleRnnSpec((8, 2), dim=16, rnn_layers=2, levels=32, cell="gru-torch", embedding=4)


def test_wavenet_reads_all_but_the_tables_other_rows_for_every_sample() -> None:
    table = Part(2 * 16, 80, 1)
    layers = 2 * (2 * 16 * 64) + 32 * 16 + 2 * 32 * 48
    assert parts(WAVENET) == (table, Part(layers + 48 * 64 + 64 * 80, 1, 1))


def test_samplernn_reads_a_tier_when_its_frame_is_due() -> None:
    layer = (16 + 16) * 3 * 16
    assert parts(SAMPLERNN) == (
        Part(8 * 16 + 2 * layer, 1, 8),
        Part(2 * 16 + 2 * layer, 1, 2),
        Part(16 * 16, 4, 2),
        Part(16 * 16, 2, 1),
        Part(2 * 16, 32, 1),
        Part(16 * 16 + 16 * 32, 1, 1),
    )


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"relu_after_sum": True}, 16 * 16),
        ({"hidden": 1}, -16 * 16),
        ({"cell": "lstm-keras"}, (1 / 8 + 1 / 2) * 2 * (16 + 16) * 16),
        ({"skips": "prism"}, (1 / 8 + 1 / 2) * 2 * 16 * 16),
        ({"skips": "mehri"}, (1 / 8 + 1 / 2) * (2 * 16 * 16 + 16 * 3 * 16)),
        ({"expand_top": False}, 1 / 8 * (8 * 3 * 16 - 8 * 16 - 16 * 3 * 16)),
    ],
)
def test_every_dialect_has_its_own_count(change: dict[str, object], more: float) -> None:
    assert multiply_adds(replace(SAMPLERNN, **change)) - multiply_adds(SAMPLERNN) == pytest.approx(more)  # type: ignore[arg-type]


def test_published_sizes_need_what_others_counted() -> None:
    prism = SampleRnnSpec((64, 16), dim=1024, rnn_layers=4, cell="gru-keras", upsample_bias="none")
    assert multiply_adds(prism) == pytest.approx(4.4e6, rel=0.01)
    ibab = WaveNetSpec(tuple(2**i for i in range(10)) * 5, 32, 32, 512, 512, input_kernel=2)
    assert multiply_adds(ibab) == pytest.approx(1.47e6, rel=0.01)


def test_multiplying_is_shared_by_threads_and_multiplied_by_voices() -> None:
    work = multiply_adds(WAVENET)
    alone = Roofline(WAVENET, "int8", int(work))
    assert alone.multiplying_seconds({"int8": work / 2}) == pytest.approx(2.0)
    many = replace(alone, threads=2, voices=8)
    assert many.multiplying_seconds({"int8": work / 2}) == pytest.approx(8.0)


def test_weights_of_24_bits_are_known_by_their_bytes() -> None:
    work = multiply_adds(WAVENET)
    peaks = {"fp32": work, "fixed24": work / 3}
    assert Roofline(WAVENET, "fp32", int(4 * work)).multiplying_seconds(peaks) == pytest.approx(1.0)
    assert Roofline(WAVENET, "fp32", int(3 * work)).multiplying_seconds(peaks) == pytest.approx(3.0)
    half = Roofline(WAVENET, "fp32", int(3.5 * work))
    assert half.multiplying_seconds(peaks) == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("spec", [WAVENET, SAMPLERNN])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_machine_is_measured_for_every_precision(spec: Spec, threads: int) -> None:
    for precision, size in {"fp32": 4, "bf16": 2, "int8": 1, "int8dot": 1}.items():
        if not ceilings.has_arithmetic(precision):
            continue
        line = Roofline(spec, precision, round(size * multiply_adds(spec)), threads)
        memory = ceilings.filled_memory(line.memory_bytes)
        assert line.memory_bytes % (threads * ceilings.GRAIN) == 0
        assert line.least_seconds(memory, 1e-4) > 0


def test_bandwidth_and_reference_are_measured() -> None:
    memory = ceilings.filled_memory(2 * ceilings.REFERENCE_BYTES)
    for threads in (1, 2):
        assert roofline.bandwidth(memory, 2**16, threads, 1e-4) > 0
        assert roofline.reference_speed(memory, threads, 1e-4) > 0
