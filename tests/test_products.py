"""Products of packed matrices against float64: several vectors, sparse ones, several threads."""

import ctypes

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llvmlite import binding, ir

from streamer.kernels import emit, simd
from streamer.kernels.compiling import compiled
from streamer.kernels.packing import PANEL, Packing, pack, pad, padded, unpack, zeros
from streamer.kernels.products import Helpers, Nonzero, matmat, matvec, matvec_sparse, new_crew
from streamer.kernels.views import address, borrowed, span, tail, word_at

PACKINGS = [packing for packing in Packing if packing != Packing.DOT8 or simd.dot_lanes()]
every_packing = pytest.mark.parametrize("packing", PACKINGS)
seeds = st.integers(0, 2**32 - 1)
widths = st.integers(1, 300)


@compiled
def multiply(crew, out, bias, matrix, x):
    matvec(crew, out, bias, matrix, x)


@compiled
def multiply_several(crew, out, bias, matrix, x, count, bias_width):
    matmat(crew, out, bias, matrix, x, count, bias_width)


@compiled
def multiply_sparse(crew, out, bias, matrix, x, nonzero):
    matvec_sparse(crew, out, bias, matrix, x, nonzero)


@compiled
def parts_of(values, start, length):
    values = borrowed(values)
    return span(values, start, length).copy(), tail(values, start).copy()


@compiled
def first_word(values):
    return word_at(address(values))


class Case:
    """A packed matrix, vectors and biases; and what their product may be off by.

    An input of a DOT8 matrix is rounded to a step in 253 of its panel's range, from the lowest input or 0 to
    the highest or 0.
    """

    def __init__(self, packing, seed, inputs, outputs, count=1):
        rng = np.random.default_rng(seed)
        weight = rng.standard_normal((inputs, outputs)) * 10 ** rng.uniform(-3, 1, outputs)
        self.packing = packing
        self.matrix = pack(weight.astype(np.float32), packing)
        self.weight = unpack(self.matrix)
        self.x = pad(rng.standard_normal((count, inputs)) * 10 ** rng.uniform(-3, 3, (count, 1)))
        self.bias = pad(rng.standard_normal((count, outputs)))

    def product(self, bias=None):
        bias = self.bias[0] if bias is None else bias
        out = zeros(self.weight.shape[1])
        multiply(new_crew(), out, bias, self.matrix, self.x[0])
        return out

    def several(self, crew=None):
        out = zeros(self.bias.size)
        crew = new_crew() if crew is None else crew
        count, width = self.bias.shape
        multiply_several(crew, out, self.bias.ravel(), self.matrix, self.x.ravel(), count, width)
        return out.reshape(count, width)

    def exact(self):
        return self.bias + self.x.astype(np.float64) @ self.weight

    def tolerance(self):
        """For each output; sums of floats are off by some roundings of their largest partial sums."""
        sums = np.abs(self.bias) + np.abs(self.x) @ np.abs(self.weight)
        extent = np.abs(self.weight).max(0, initial=0.0) * np.abs(self.x).sum(1, keepdims=True)
        error = 2e-7 * (sums + extent) * np.sqrt(max(1, len(self.weight)))
        if self.packing == Packing.DOT8:
            for start in range(0, len(self.weight), PANEL):
                panel = self.x[:, start : start + PANEL]
                step = (panel.max(1, initial=0.0) - panel.min(1, initial=0.0)) / 253
                error += 0.501 * step[:, None] * np.abs(self.weight[start : start + PANEL]).sum(0)
        return error


@every_packing
@settings(max_examples=60, deadline=None, derandomize=True)
@given(seeds, widths, widths)
@example(0, 1, 1)
@example(0, 64, 64)
@example(0, 256, 48)
@example(0, PANEL + 100, 97)
@example(0, 3 * PANEL, 16)
def test_a_product_equals_float64(packing, seed, inputs, outputs):
    case = Case(packing, seed, inputs, outputs)
    out = case.product()
    assert np.all(np.abs(out - case.exact()[0]) <= case.tolerance()[0])
    assert not out[outputs:].any()


@every_packing
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seeds, widths, widths, st.integers(1, 19))
@example(0, PANEL + 40, 250, 8)
def test_several_vectors_give_the_same_bits_as_one_by_one(packing, seed, inputs, outputs, count):
    case = Case(packing, seed, inputs, outputs, count)
    several = case.several()
    assert np.all(np.abs(several - case.exact()) <= case.tolerance())
    for i in range(count):
        alone = Case(packing, seed, inputs, outputs, count)
        alone.x, alone.bias = case.x[i : i + 1].copy(), case.bias[i : i + 1].copy()
        assert np.array_equal(alone.product(), several[i])


@every_packing
@pytest.mark.parametrize("threads", [2, 3])
def test_several_threads_give_the_same_bits_as_one(packing, threads):
    crew = new_crew(threads)
    helpers = Helpers(crew)
    try:
        for seed, (inputs, outputs, count) in enumerate([(600, 700, 1), (300, 256, 5), (1024, 128, 2)] * 20):
            case = Case(packing, seed, inputs, outputs, count)
            assert np.array_equal(case.several(crew), case.several())
    finally:
        helpers.close()


@every_packing
def test_helpers_that_never_come_are_done_without(packing):
    case = Case(packing, 0, 600, 700)
    crew = new_crew(4)
    for _ in range(3):
        assert np.array_equal(case.several(crew), case.several())


@every_packing
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seeds, widths, widths, st.floats(0, 1))
def test_a_sparse_vector_gives_the_same_bits_as_the_dense_one(packing, seed, inputs, outputs, share):
    case = Case(packing, seed, inputs, outputs)
    case.x[0, :inputs][np.random.default_rng(seed).random(inputs) < share] = 0
    out, rows = zeros(padded(outputs)), np.flatnonzero(case.x[0]).astype(np.int32)
    nonzero = Nonzero(case.x[0, rows], rows, np.array([len(rows)]))
    multiply_sparse(new_crew(), out, case.bias[0], case.matrix, case.x[0], nonzero)
    assert np.array_equal(out, case.product())


def test_rows_that_are_not_listed_are_not_read():
    weight = np.ones((32, 16), np.float32)
    weight[5] = np.nan
    rows = np.delete(np.arange(32, dtype=np.int32), 5)
    out, nonzero = zeros(16), Nonzero(np.ones(32, np.float32), rows, np.array([31]))
    multiply_sparse(new_crew(), out, zeros(16), pack(weight, Packing.FP32), zeros(32), nonzero)
    assert np.array_equal(out, np.full(16, 31))


@every_packing
def test_a_product_may_add_to_its_own_output(packing):
    case = Case(packing, 1, PANEL + 80, 112)
    out = case.bias[0].copy()
    multiply(new_crew(), out, out, case.matrix, case.x[0])
    assert np.array_equal(out, case.product())


@every_packing
def test_vectors_may_share_a_bias(packing):
    case = Case(packing, 2, 50, 60, 6)
    case.bias[:] = case.bias[0]
    out = zeros(case.bias.size)
    multiply_several(new_crew(), out, case.bias[0].copy(), case.matrix, case.x.ravel(), 6, 0)
    assert np.array_equal(out.reshape(6, -1), case.several())


@every_packing
def test_no_inputs_leave_the_bias(packing):
    bias = pad(np.arange(32))
    out = zeros(32)
    multiply(new_crew(), out, bias, pack(np.zeros((0, 32), np.float32), packing), zeros(0))
    assert np.array_equal(out, bias)


@every_packing
@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-20, 1e15])
def test_inputs_of_any_size_keep_their_precision(packing, scale):
    case = Case(packing, 3, 96, 80)
    case.x *= np.float32(scale / np.abs(case.x).max())
    case.bias[:] = 0
    case.matrix = pack(np.eye(96, 80, dtype=np.float32), packing)
    case.weight = unpack(case.matrix)
    # Below 1e-30 a DOT8 matrix takes inputs for zero.
    assert np.all(np.abs(case.product() - case.exact()[0]) <= case.tolerance()[0] + 1e-30)


@pytest.mark.skipif(not simd.dot_lanes(), reason="this processor has no dot product of bytes")
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.floats(-1e3, 0, width=32),
    st.floats(0, 1e3, width=32),
    st.integers(0, 2**32 - 1),
)
@example(-126.5, 126.5, 0)
@example(-1.0, 0.0, 0)
@example(0.0, 1.0, 0)
def test_whole_numbers_never_leave_a_byte(low, high, seed):
    """At the ends of the range a step too many would come out as the other end."""
    x = np.random.default_rng(seed).uniform(low, high, 32).astype(np.float32)
    x[[0, 1]] = low, high
    out = zeros(32)
    multiply(new_crew(), out, zeros(32), pack(np.eye(32, dtype=np.float32), Packing.DOT8), x)
    assert np.all(np.abs(out - x) <= 0.501 * (np.float64(high) - low) / 253 + 1e-6 * (high - low) + 1e-30)


@pytest.mark.parametrize("packing", [Packing.FP32, Packing.FIXED24, Packing.BF16, Packing.INT8])
def test_infinity_and_nan_are_not_lost(packing):
    for value, check in ((np.inf, np.isinf), (np.nan, np.isnan)):
        x, out = pad(np.ones(16)), zeros(16)
        x[3] = value
        multiply(new_crew(), out, zeros(16), pack(np.ones((16, 16), np.float32), packing), x)
        assert check(out).all()


def test_parts_of_an_array():
    part, rest = parts_of(np.arange(10, dtype=np.float32), 3, 4)
    assert part.tolist() == [3, 4, 5, 6]
    assert rest.tolist() == list(range(3, 10))
    assert first_word(np.array([7, 8])) == 7


@pytest.mark.parametrize(
    "weight",
    [np.zeros(256), np.zeros(256, np.int16), np.zeros((16, 16), np.uint8), np.zeros(512, np.uint8)[::2]],
)
def test_other_arrays_are_refused(weight):
    with pytest.raises(TypeError, match="kernels take 1-D C-contiguous arrays of"):
        multiply(new_crew(), zeros(16), zeros(16), weight, zeros(16))


def emitted():
    """The product as it is emitted now."""
    module = ir.Module()
    emit.function(module, "product", simd._ARGUMENTS, simd._emit_choice).linkage = "external"
    return binding.parse_assembly(str(module))


def assembly(triple, features):
    """The product as LLVM makes it for another processor."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(triple).create_target_machine(features=features, opt=2)
    return machine.emit_assembly(emitted())


@pytest.mark.skipif(
    not binding.get_host_cpu_features().get("avxvnni"), reason="this processor has no dot product of 256 bits"
)
def test_the_dot_product_of_256_bits_gives_the_same_bits(monkeypatch):
    host = binding.get_host_cpu_features()
    case = Case(Packing.DOT8, 5, PANEL + 70, 250, 6)
    features(monkeypatch, avxvnni=True)
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=host.flatten(), opt=2
    )
    engine = binding.create_mcjit_compiler(emitted(), machine)
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(simd._ARGUMENTS))(
        engine.get_function_address("product")
    )
    out = zeros(case.bias.size)
    places = [array.ctypes.data for array in (out, case.bias, case.matrix, case.x)]
    call(*places, 6, 4 * case.bias.shape[1], 0, 0, 0, 1)
    monkeypatch.undo()
    assert np.array_equal(out.reshape(case.bias.shape), case.several())


def features(monkeypatch, **having):
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: having)


def test_the_dot_product_is_chosen_by_what_the_processor_has(monkeypatch):
    for having, lanes in (
        ({"avx512vnni": True, "avxvnni": True}, 16),
        ({"avxvnni": True, "avx512vnni": False}, 8),
        ({"dotprod": True}, 4),
        ({"avx2": True}, 0),
    ):
        features(monkeypatch, **having)
        assert simd.dot_lanes() == lanes


@pytest.mark.parametrize(
    ("triple", "wanted", "having"),
    [
        ("x86_64-unknown-linux-gnu", "vpdpbusd", "avx512vnni"),
        ("x86_64-unknown-linux-gnu", "vpdpbusd", "avxvnni"),
        ("aarch64-unknown-linux-gnu", "sdot", "dotprod"),
        ("aarch64-unknown-linux-gnu", "fmla", None),
        ("x86_64-unknown-linux-gnu", "vfmadd", None),
    ],
)
def test_every_processor_gets_its_instructions(monkeypatch, triple, wanted, having):
    features(monkeypatch, **({having: True} if having else {}))
    attributes = {"avx512vnni": "+avx512f,+avx512bw,+avx512vl,+avx512vnni", "dotprod": "+dotprod"}
    plain = "+avx2,+fma" if triple.startswith("x86") else "+neon"
    made = assembly(triple, attributes.get(having, plain + (f",+{having}" if having else "")))
    assert wanted in made
    assert (having is not None) == any(name in made for name in ("vpdpbusd", "sdot"))
