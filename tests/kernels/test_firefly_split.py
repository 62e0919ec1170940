"""Split neurons: the reference against the mathematics, the ops against the reference on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import pcl_kernels
from pcl_kernels import _C, firefly_split, firefly_split_forward
from pcl_kernels.firefly_split import conv, reference
from pcl_kernels.firefly_split.layout import block, walk_of
from tests.kernels.firefly_cases import (
    ACTIVATIONS,
    DTYPES,
    MEMORY,
    SMOOTH,
    WAYS,
    assert_within,
    cases,
    compute_eps,
    memory,
    numbers,
    operands,
)


@pytest.fixture(params=WAYS)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield request.param(monkeypatch)
    _C.use_isa(_C.isas()[-1])


# ---- the reference


def test_the_reference_evaluates_two_networks() -> None:
    x, w, delta = numbers(4, 6), numbers(3, 6, seed=1), numbers(3, 6, seed=2)
    epsilon = torch.tensor([0.5, 0.0, -0.25], dtype=torch.float64)
    plus, minus = (torch.tanh(x @ (w + sign * epsilon[:, None] * delta).T) for sign in (1, -1))
    found = reference.firefly_split_forward(x, w, delta, epsilon, activation="tanh")
    assert torch.allclose(found, (plus + minus) / 2, rtol=1e-14)
    assert torch.allclose(found, reference.firefly_split(x @ w.T, x @ delta.T, epsilon, activation="tanh"), rtol=1e-13)


def test_a_copy_is_one_neuron_whose_weights_have_moved() -> None:
    x, w, delta, epsilon = numbers(4, 6), numbers(3, 6, seed=1), numbers(3, 6, seed=2), numbers(3, seed=3)
    found = reference.firefly_split_forward(x, w, delta, epsilon, mirror=torch.ones(3))
    assert torch.allclose(found, torch.relu(x @ (w + epsilon[:, None] * delta).T), rtol=1e-14)


# ---- the pass behind the layer


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_split(activation: str, dtype: torch.dtype, device: str, request: pytest.FixtureRequest) -> None:
    for shape, how in cases(request.node.callspec.id, activation, dtype):
        o = operands(shape, dtype, device, how)
        size, _ = o.u()
        found = firefly_split(o.a, o.d, o.epsilon, o.scale, o.shift, mirror=o.mirror, activation=activation)
        expected = reference.firefly_split(
            o.a, o.d, o.epsilon, o.scale, o.shift, mirror=o.mirror, activation=activation
        )
        assert_within(found, expected, 4 * size + 4)
        found = firefly_split(o.a, o.d, o.epsilon, activation=activation)
        expected = reference.firefly_split(o.a, o.d, o.epsilon, activation=activation)
        assert_within(found, expected, 4 * (o.a.double().abs() + 4 * o.d.double().abs()) + 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients(activation: str, dtype: torch.dtype, device: str, request: pytest.FixtureRequest) -> None:
    for shape, how in cases(request.node.callspec.id, activation, dtype):
        o = operands(shape, dtype, device, how)
        given = [o.a, o.d, o.epsilon, o.scale, o.shift]
        found, expected = (
            gradients(call, given, o.mirror, o.grad, activation) for call in (firefly_split, reference.firefly_split)
        )
        _, rough = o.u()  # the slopes change by no more than u does
        e, s = (v.double().abs().view(-1, *[1] * (o.a.dim() - 2)) for v in (o.epsilon, o.scale))
        rough = rough * o.grad.double().abs()
        a, d = o.a.double().abs(), o.d.double().abs()
        over = [n for n in range(o.a.dim()) if n != 1]
        bounds = [
            s * rough,
            s * e * rough,
            (s * d * rough).sum(over),
            ((a + e * d) * rough).sum(over),
            rough.sum(over),
        ]
        for one, other, bound in zip(found, expected, bounds, strict=True):
            assert_within(one, other.to(one.dtype), bound * (compute_eps(dtype) / compute_eps(one.dtype)))


def gradients(call: Callable[..., Tensor], given: list[Tensor], mirror: Tensor, grad: Tensor, activation: str) -> Any:
    leaves = [t.detach().requires_grad_() for t in given]
    y = call(*leaves, mirror=mirror, activation=activation)
    return torch.autograd.grad(y, leaves, grad)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_huge_and_tiny_numbers(activation: str, device: str) -> None:
    """What is finite stays finite, and what is small keeps its digits."""
    a = torch.tensor([[3e37, -3e37, 1e4, -1e4, 30.0, -30.0, 1e-30, -1e-30, 0.0]], device=device).requires_grad_()
    zero = torch.zeros(9, device=device)
    y = firefly_split(a, torch.zeros_like(a), zero, activation=activation)
    expected = reference.firefly_split(a, torch.zeros_like(a), zero, activation=activation)
    assert y.isfinite().all()
    assert torch.allclose(y, expected, rtol=2e-6, atol=1e-37 if activation in ("identity", "relu", "tanh") else 1e-6)
    (slope,) = torch.autograd.grad(y.sum(), a)
    (wanted,) = torch.autograd.grad(
        reference.firefly_split(a.double(), a.double(), zero, activation=activation).sum(), a
    )
    assert torch.allclose(slope, wanted, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_in_its_place(activation: str, device: str) -> None:
    a = numbers(3, 20, dtype=torch.float32, device=device)
    a[1, 7] = torch.nan
    y = firefly_split(a, torch.ones_like(a), torch.ones(20, device=device), activation=activation)
    assert torch.equal(y.isnan(), a.isnan())


def test_no_step_leaves_the_neurons_as_they_are(device: str) -> None:
    a, d = numbers(3, 17, 5, dtype=torch.float32, device=device), numbers(3, 17, 5, dtype=torch.float32, device=device)
    assert torch.equal(firefly_split(a, d, torch.zeros(17, device=device)), a.relu())


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    before, found = torch.get_num_threads(), []
    many = [(7, 33, 500), (5000, 21)]
    shapes = [(9, 4, 32, 32), (8, 4, 3, 3), (8, 4, 3, 3), (8,)]
    large = [numbers(*shape, dtype=torch.float32) for shape in shapes]
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append([])
            for shape in many:
                o = operands(shape, torch.float32, "cpu")
                leaves = [o.a, o.d, o.epsilon, o.scale, o.shift]
                found[-1] += gradients(firefly_split, leaves, o.mirror, o.grad, "gelu")
            found[-1].append(firefly_split_forward(*large))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for other in found[1:] for x, y in zip(found[0], other, strict=True))


@pytest.mark.parametrize("how", ["contiguous", "channels-last", "half of a stack"])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3, 5)], ids=str)
def test_nothing_is_copied_where_layers_leave_their_results(shape: tuple[int, ...], how: str) -> None:
    t = memory(numbers(*shape), how)
    assert block(t, walk_of(t).rows).tensor.data_ptr() == t.data_ptr()


def test_spans_of_positions_add_up(device: str) -> None:
    """More than one program of the GPU's form sums up."""
    o = operands((600, 2), torch.float64, device)
    given = [o.a, o.d, o.epsilon, o.scale, o.shift]
    found, expected = (gradients(c, given, o.mirror, o.grad, "tanh") for c in (firefly_split, reference.firefly_split))
    assert all(torch.allclose(x, y, rtol=1e-11) for x, y in zip(found, expected, strict=True))


# ---- whole layers

LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "linear": ((5, 7), (9, 7), {}),
    "linear over a sequence": ((2, 3, 7), (4, 7), {}),
    "linear, one vector": ((7,), (4, 7), {}),
    "linear, no samples": ((0, 7), (4, 7), {}),
    "linear, no neurons": ((5, 7), (0, 7), {}),
    "linear, one neuron": ((5, 7), (1, 7), {}),
    "3x3": ((3, 5, 6, 7), (4, 5, 3, 3), {"padding": 1}),
    "3x3, wide": ((2, 17, 9, 10), (33, 17, 3, 3), {"padding": 1}),
    "3x3, odd and unpadded": ((2, 3, 7, 5), (6, 3, 3, 3), {}),
    "3x3, padded beyond": ((2, 3, 5, 4), (6, 3, 3, 3), {"padding": 2}),
    "1x1": ((2, 6, 4, 4), (5, 6, 1, 1), {}),
    "stride": ((2, 3, 9, 8), (5, 3, 3, 2), {"stride": (2, 3), "padding": (1, 0)}),
    "dilation": ((2, 5, 9, 11), (4, 5, 2, 3), {"dilation": 2}),
    "same": ((2, 3, 6, 6), (4, 3, 3, 3), {"padding": "same"}),
    "no samples": ((0, 3, 6, 6), (4, 3, 3, 3), {"padding": 1}),
    "no neurons": ((2, 3, 6, 6), (0, 3, 3, 3), {"padding": 1}),
    "one neuron": ((2, 3, 6, 6), (1, 3, 3, 3), {"padding": 1}),
}


# the library runs most of a layer, so that few of them are left to the interpreter and to lesser instruction sets
OF_LAYERS = [
    pytest.param(name, *way.values, id=f"{name}-{way.id}", marks=way.marks)
    for name in LAYERS
    for way in WAYS
    if way.id in ("cuda", f"cpu-{_C.isas()[-1]}") or name in ("linear", "3x3, wide", "stride")
]


def layer(
    name: str, dtype: torch.dtype, device: str, how: str = "contiguous"
) -> tuple[list[Tensor], Tensor, dict[str, Any]]:
    shape, weight, options = LAYERS[name]
    m = weight[0]
    x = numbers(*shape, dtype=dtype, seed=1, device=device)
    w, delta = (numbers(*weight, dtype=dtype, seed=i, device=device) for i in (2, 3))
    if how != "contiguous" and x.dim() == 4:
        x, w = memory(x, how), memory(w, how)
    vectors = [numbers(m, dtype=dtype, seed=i, device=device) for i in range(4, 9)]
    epsilon, bias, delta_bias, scale, shift = vectors
    mirror = torch.where(numbers(m, seed=9, device=device) > 0, 1.0, -1.0).to(dtype)
    return [x, w, delta, epsilon, bias, delta_bias, scale, shift], mirror, options


def sizes(given: list[Tensor], mirror: Tensor, options: dict[str, Any]) -> Tensor:
    """What every result would be at most if nothing cancelled, in float64."""
    positive = [t.detach().double().abs() for t in given]
    return reference.firefly_split_forward(*positive, mirror=mirror.double().abs(), activation="identity", **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", ["contiguous", "channels-last", "strided"])
@pytest.mark.parametrize(("name", "device"), OF_LAYERS, indirect=["device"])
def test_forward(name: str, how: str, dtype: torch.dtype, device: str) -> None:
    given, mirror, options = layer(name, dtype, device, how)
    terms = given[1][0].numel() if len(given[1]) else 0
    for call in (given, given[:4]):
        found = firefly_split_forward(*call, mirror=mirror, activation="relu", **options)
        expected = reference.firefly_split_forward(*call, mirror=mirror, activation="relu", **options)
        # the library rounds a and d to the dtype, and its sums on the way to the arithmetic's
        size = sizes(call, mirror, options)
        bound = size * (4 * torch.finfo(dtype).eps + (terms + 4) * compute_eps(dtype))
        assert found.shape == expected.shape
        assert found.dtype == dtype
        assert ((found.double() - expected.double()).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(("name", "device"), OF_LAYERS, indirect=["device"])
def test_gradients_of_layers(name: str, activation: str, dtype: torch.dtype, device: str) -> None:
    found = {}
    for call in (firefly_split_forward, reference.firefly_split_forward):
        given, mirror, options = layer(name, dtype, device, "channels-last")
        leaves = [t.requires_grad_() for t in given]
        y = call(*leaves, mirror=mirror, activation=activation, **options)
        grad = numbers(*y.shape, dtype=dtype, seed=10, device=device)
        found[call] = torch.autograd.grad(y, leaves, grad)
    for one, other in zip(*found.values(), strict=True):
        assert one.shape == other.shape
        # sums of up to a few hundred products, whose sizes those of the largest result stand for
        room = 300 * torch.finfo(dtype).eps * max(float(other.abs().max()) if other.numel() else 0, 1)
        torch.testing.assert_close(one, other, rtol=0, atol=room)


@pytest.mark.parametrize("name", ["linear", "3x3, odd and unpadded", "stride"])
def test_gradcheck_of_layers(name: str) -> None:
    given, mirror, options = layer(name, torch.float64, "cpu")
    leaves = [t.requires_grad_() for t in given]
    assert torch.autograd.gradcheck(
        lambda *t: firefly_split_forward(*t, mirror=mirror, activation="tanh", **options), leaves, fast_mode=True
    )


@pytest.mark.parametrize("activation", SMOOTH)
def test_gradcheck_twice(activation: str) -> None:
    o = operands((2, 3, 4), torch.float64, "cpu")
    leaves = [t.requires_grad_() for t in (o.a, o.d, o.epsilon, o.scale, o.shift)]

    def call(*t: Tensor) -> Tensor:
        return firefly_split(*t, mirror=o.mirror, activation=activation)

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


def test_only_what_is_asked_for_has_a_gradient() -> None:
    x, w, delta, epsilon = numbers(4, 3), numbers(5, 3), numbers(5, 3), numbers(5).requires_grad_()
    firefly_split_forward(x, w, delta.requires_grad_(), epsilon).sum().backward()
    assert w.grad is None
    assert delta.grad is not None
    assert epsilon.grad is not None


@pytest.mark.parametrize("how", ["contiguous", "channels-last"])
def test_the_kernel_of_small_convolutions_takes_their_shapes(how: str, isa: str) -> None:
    """Samples that are walked together and the last ones that are fewer, rows of tiles that fill no vector."""
    for x, neurons, padding in [
        ((9, 3, 8, 8), 5, 1),
        ((20, 2, 3, 3), 2, 1),
        ((2, 17, 32, 33), 17, (0, 2)),
        ((17, 1, 2, 1), 1, 1),
    ]:
        leaves = [
            numbers(*x, dtype=torch.float32),
            *(numbers(neurons, x[1], 3, 3, dtype=torch.float32, seed=i) for i in (1, 2)),
        ]
        leaves += [numbers(neurons, dtype=torch.float32, seed=3)]
        leaves[0] = memory(leaves[0], how)
        assert conv.suits(leaves[0], leaves[1], 1, padding, 1)
        order = torch.contiguous_format if leaves[0].is_contiguous() else torch.channels_last
        plain = firefly_split_forward(*leaves, activation="gelu", padding=padding)
        found = firefly_split_forward(*(t.requires_grad_() for t in leaves), activation="gelu", padding=padding)
        assert torch.equal(plain, found)
        assert plain.stride() == leaves[0].new_empty(plain.shape).contiguous(memory_format=order).stride()
        expected = reference.firefly_split_forward(*leaves, activation="gelu", padding=padding)
        # 9 inputs' products, and in the transforms sums of up to 16 numbers of a patch
        assert (found - expected).abs().max() <= 64 * torch.finfo(torch.float32).eps * expected.abs().max()


def test_only_its_own_convolutions_go_to_that_kernel() -> None:
    x, w = numbers(2, 3, 6, 6, dtype=torch.float32), numbers(4, 3, 3, 3, dtype=torch.float32)
    assert conv.suits(x, w, 1, 1, 1)
    assert not conv.suits(x, w, 2, 1, 1)
    assert not conv.suits(x, w, 1, 1, (1, 2))
    assert not conv.suits(x, w, 1, "same", 1)
    assert not conv.suits(x, w[..., :1], 1, 1, 1)
    assert not conv.suits(x.double(), w.double(), 1, 1, 1)


def test_gradients_of_gradients_of_small_convolutions() -> None:
    """In float32 by hand, because the kernel has no float64: against those of the reference."""
    found = []
    for call in (firefly_split_forward, reference.firefly_split_forward):
        given, mirror, options = layer("3x3, odd and unpadded", torch.float32, "cpu")
        leaves = [t.requires_grad_() for t in given]
        y = call(*leaves, mirror=mirror, activation="tanh", **options)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(torch.stack([t.square().sum() for t in first]).sum(), leaves))
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= 1000 * torch.finfo(torch.float32).eps * other.abs().max()


# ---- what torch asks for


def test_torch_accepts_the_ops() -> None:
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    for how in MEMORY:
        for d in (True, False):
            o = operands((2, 6, 3, 5), torch.float32, "cpu", how)
            vectors = [v[: 6 if d else 3] for v in (o.epsilon, o.scale, o.shift, o.mirror)]
            given = (o.a, o.d if d else None, *vectors, "gelu")
            torch.library.opcheck(torch.ops.pcl.firefly_split.default, given, test_utils=tests)
            grad = o.grad if d else o.grad[:, :3]
            torch.library.opcheck(torch.ops.pcl.firefly_split_backward.default, (*given, grad), test_utils=tests)


def test_torch_accepts_the_convolution() -> None:
    x, stacked, *vectors = layer("3x3", torch.float32, "cpu")[0][:2] + [
        numbers(n, dtype=torch.float32) for n in (5, 2, 2)
    ]
    stacked = stacked[:, : x.shape[1]].contiguous()
    for keep in (True, False):
        given = (x, stacked[:4], vectors[0][:4], vectors[1], None, vectors[2], None, "silu", [1, 1], keep)
        tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
        torch.library.opcheck(torch.ops.pcl.firefly_conv.default, given, test_utils=tests)


def test_compile_traces_through() -> None:
    given, mirror, options = layer("3x3", torch.float32, "cpu")
    traced = torch.compile(
        lambda *t: firefly_split_forward(*t, mirror=mirror, **options) + 1, backend="eager", fullgraph=True
    )
    assert torch.equal(traced(*given), firefly_split_forward(*given, mirror=mirror, **options) + 1)


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (
            lambda x, v: firefly_split(x, x, v, activation="elu"),
            ValueError,
            "activation: expected one of identity, relu",
        ),
        (lambda x, v: firefly_split([1.0], x, v), TypeError, "a: expected a tensor, got list"),
        (lambda x, v: firefly_split(x.int(), x, v), TypeError, "a: expected one of"),
        (lambda x, v: firefly_split(x, x.double(), v), TypeError, r"d: expected torch\.float32"),
        (lambda x, v: firefly_split(x, x[:2], v), ValueError, "d must have a's shape"),
        (lambda x, v: firefly_split(x[0], x[0], v), ValueError, r"a: expected shape \(B, m, \.\.\.\)"),
        (lambda x, v: firefly_split(x, x, v[:2]), ValueError, r"epsilon: expected shape \(3,\)"),
        (lambda x, v: firefly_split(x, x, v, scale=x), ValueError, r"scale: expected shape \(3,\)"),
        (lambda x, v: firefly_split(x, x, v, mirror=v.long()), TypeError, "mirror: expected one of"),
        (lambda x, v: firefly_split(x, x, v.to("meta")), ValueError, "epsilon: expected device cpu"),
        (lambda x, v: firefly_split_forward(x, x[0], x[0], v), ValueError, "weight: expected"),
        (lambda x, v: firefly_split_forward(x, x[:, :2], x[:, :2], v), ValueError, r"x: expected shape \(\.\.\., 2\)"),
        (
            lambda x, v: firefly_split_forward(x, x[..., None, None], x, v),
            ValueError,
            r"x: expected shape \(B, 3, H, W\)",
        ),
        (lambda x, v: firefly_split_forward(x, x, x[:2], v), ValueError, "delta must have weight's shape"),
        (lambda x, v: firefly_split_forward(x, x.double(), x, v), TypeError, r"weight: expected torch\.float32"),
        (lambda x, v: firefly_split_forward(x, x, x, v, bias=v.double()), TypeError, r"bias: expected torch\.float32"),
        (lambda x, v: firefly_split_forward(x, x, x, v, delta_bias=v[:1]), ValueError, r"delta_bias: expected shape"),
    ],
)
def test_errors_name_the_argument(call: Callable[..., object], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        call(numbers(3, 3, dtype=torch.float32), numbers(3, dtype=torch.float32))


def test_all_are_public() -> None:
    assert {"firefly_split", "firefly_split_forward"} <= set(pcl_kernels.__all__)
