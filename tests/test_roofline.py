"""What a sample must read and multiply, and the least time that follows; never how fast this machine is."""

from dataclasses import replace

import pytest
from draws import weights_of

from streamer import ceilings, roofline
from streamer.ceilings import GRAIN
from streamer.kernels.stepper import Stepper
from streamer.kernels.wavenet import AHEAD
from streamer.models.specs import ClockSpec, SampleRnnSpec, Spec, WaveNetSpec
from streamer.roofline import Part, Roofline, multiply_adds, parts

WAVENET = WaveNetSpec((1, 4, 16), residual=16, gate=32, skip=48, output=64, levels=80, input_kernel=2)
SAMPLERNN = SampleRnnSpec((8, 2), dim=16, rnn_layers=2, levels=32, cell="gru-torch", embedding=4)


def test_wavenet_reads_older_taps_for_a_block_and_the_rest_for_every_sample() -> None:
    tap = 16 * 64
    rest = 3 * tap + 2 * (32 * 16) + 3 * (32 * 48) + 48 * 64 + 64 * 80
    assert parts(WAVENET) == (
        Part(tap),
        Part(tap, every=4, vectors=4),
        Part(tap, every=AHEAD, vectors=AHEAD),
        Part(2 * 16, sets=80),
        Part(rest),
    )


def test_samplernn_reads_a_tier_when_its_frame_is_due() -> None:
    layer = (16 + 16) * 3 * 16
    assert parts(SAMPLERNN) == (
        Part(8 * 16 + 2 * layer, every=8),
        Part(2 * 16 + 2 * layer, every=2),
        Part(16 * 16, sets=4, every=2),
        Part(16 * 16, sets=2),
        Part(2 * 16, sets=32),
        Part(16 * 16 + 16 * 32),
    )


@pytest.mark.parametrize(
    ("change", "more"),
    [
        ({"relu_after_sum": True}, 16 * 16),
        ({"hidden": 1}, -16 * 16),
        ({"cell": "lstm-keras"}, (1 / 8 + 1 / 2) * 2 * (16 + 16) * 16),
        ({"skips": "prism"}, (1 / 8 + 1 / 2) * 2 * 16 * 16),
        ({"skips": "mehri"}, (1 / 8 + 1 / 2) * (2 * 16 * 16 + 16 * 3 * 16)),
        ({"clock": ClockSpec(1000, 5)}, 1 / 8 * 2 * 5 * 16),
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


def test_a_weight_that_was_read_serves_all_voices() -> None:
    work = multiply_adds(SAMPLERNN)
    alone = Roofline(SAMPLERNN, "int8", int(work))
    assert alone.multiplying_seconds(work / 2, work) == pytest.approx(2.0)
    many = replace(alone, voices=8)
    assert many.multiplying_seconds(work / 2, work) == pytest.approx(2.0 + 7.0)
    assert replace(many, threads=2).multiplying_seconds(work / 2, work) == pytest.approx(4.5)


def test_a_weight_that_was_read_serves_the_samples_ahead() -> None:
    work, tap = multiply_adds(WAVENET), 16 * 64
    again = tap * (3 / 4 + (AHEAD - 1) / AHEAD)
    line = Roofline(WAVENET, "int8", int(work))
    assert line.multiplying_seconds(1.0, 1e30) == pytest.approx(work - again)
    assert line.multiplying_seconds(1e30, 1.0) == pytest.approx(again)


def test_the_bytes_of_a_sample_are_shared_out_to_its_parts() -> None:
    """Widths here are whole vectors, and so nothing but headers and scales is added to the weights."""
    for spec in (WAVENET, SAMPLERNN):
        stepper = Stepper(spec, weights_of(spec, 0))
        expected = sum(4 * part.weights / part.every for part in parts(spec))
        assert expected <= stepper.weight_bytes < 1.2 * expected
        read = sum(share.weights / share.every for share in Roofline(spec, "fp32", 2**20, 2).shares())
        assert 2**19 <= read < 2**19 + GRAIN * sum(1 / part.every for part in parts(spec))


@pytest.mark.parametrize("spec", [WAVENET, SAMPLERNN])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_machine_is_measured_for_every_precision(spec: Spec, threads: int) -> None:
    for name in filter(ceilings.has_arithmetic, ceilings.ARITHMETIC):
        weight_bytes = ceilings.ARITHMETIC[name].weight_bytes
        line = Roofline(spec, name, round(weight_bytes * multiply_adds(spec)), threads)
        memory = ceilings.filled_memory(line.memory_bytes)
        assert line.memory_bytes % (threads * ceilings.GRAIN) == 0
        assert line.least_seconds(memory, 1e-4) > 0


def test_the_machine_is_described_for_one_core_and_for_all() -> None:
    one, two, arithmetic = roofline.describe(2, 1e-4)
    assert one.startswith("one core reads ")
    assert two.startswith("2 cores at once read ")
    assert all(f" in {name}" in arithmetic for name in filter(ceilings.has_arithmetic, ceilings.ARITHMETIC))
    assert len(roofline.describe(1, 1e-4)) == 2


def test_bandwidth_and_reference_are_measured() -> None:
    memory = ceilings.filled_memory(2 * ceilings.REFERENCE_BYTES)
    for threads in (1, 2):
        assert roofline.bandwidth(memory, 2**16, threads, 1e-4) > 0
        assert roofline.reference_speed(memory, threads, 1e-4) > 0
