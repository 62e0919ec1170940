"""combine against its reference, its rounding, its writing in place, its gradients."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pcl_kernels import combine
from pcl_kernels.combine.reference import combine as reference
from tests.kernels.backends import Backend
from tests.kernels.gradient_cases import DTYPES, LAYOUTS, SHAPES, in_layout, task_gradients, with_none

EPS = torch.finfo(torch.float64).eps


def weights_for(k: int, device: str = "cpu") -> Tensor:
    return torch.randn(k, generator=torch.Generator().manual_seed(k), dtype=torch.float64).to(device)


def assert_rounded_once(got: Tensor, grads: list[Tensor], weights: Tensor, start: Tensor | None = None) -> None:
    """Half a unit in the last place of the dtype, plus the error of a float64 sum."""
    total = torch.zeros_like(got, dtype=torch.float64) if start is None else start.double()
    magnitude = total.abs()
    for w, g in zip(weights, grads, strict=True):
        total = total + w * g.double()
        magnitude = magnitude + (w * g.double()).abs()
    if got.dtype == torch.float64:
        bound = torch.zeros_like(total)
    else:
        tiny = torch.finfo(got.dtype).smallest_normal
        bound = torch.finfo(got.dtype).eps / 2 * total.abs().clamp_min(tiny)
    assert got.shape == grads[0].shape
    assert ((got.double() - total).abs() <= bound + (len(grads) + 2) * EPS * magnitude).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
def test_lists_of_tensors(backend: Backend, k: int, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    grads = task_gradients(shapes, k, dtype, device=backend.device)
    weights = weights_for(k, backend.device)
    sums = backend.combine(grads, weights)
    assert len(sums) == len(shapes)
    for p, d in enumerate(sums):
        assert d.dtype == dtype
        assert_rounded_once(d, [row[p] for row in grads], weights)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_three_forms_agree_to_the_bit(backend: Backend, k: int) -> None:
    ((matrix,),) = task_gradients([(k, 20_011)], 1, torch.float32, device=backend.device)
    weights = weights_for(k, backend.device)
    d = backend.combine(matrix, weights)
    assert d.shape == (20_011,)
    assert_rounded_once(d, list(matrix), weights)
    assert torch.equal(d, backend.combine(list(matrix), weights))
    assert torch.equal(d, backend.combine(tuple(matrix.view(k, 20_011, 1)), weights).flatten())
    cut = backend.combine([[g[:777], g[777:]] for g in matrix], weights)
    assert torch.equal(d, torch.cat(cut))


def test_kinds_of_weights(backend: Backend) -> None:
    ((matrix,),) = task_gradients([(3, 50)], 1, torch.float32, device=backend.device)
    truth = backend.combine(matrix, torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64, device=backend.device))
    for weights in (
        [0.5, -2, 3],
        (0.5, -2.0, 3.0),
        torch.tensor([0.5, -2.0, 3.0]),
        torch.tensor([0.5, -2, 3]).half(),
    ):
        assert torch.equal(backend.combine(matrix, weights), truth)


def test_none_is_zero_and_stays_none_where_no_task_has_one(backend: Backend) -> None:
    full = task_gradients([(3, 4), (9,), (2, 2), (300,), (1,)], 4, torch.float32, device=backend.device)
    grads = with_none(full)
    weights = weights_for(4, backend.device)
    sums = backend.combine(grads, weights)
    assert sums[-1] is None
    for p, d in enumerate(sums[:-1]):
        zeros = [torch.zeros_like(full[i][p]) if row[p] is None else row[p] for i, row in enumerate(grads)]
        assert_rounded_once(d, zeros, weights)
    assert combine([[None, None]], [1.0]) == [None, None]


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("into", [None, *LAYOUTS[:3]])
def test_memory_layouts(backend: Backend, first: str, second: str, into: str | None) -> None:
    grads = task_gradients([(4, 6, 5), (33, 17)], 3, torch.float32, device=backend.device)
    mixed = [[in_layout(g, first if i % 2 else second) for g in row] for i, row in enumerate(grads)]
    weights = weights_for(3, backend.device)
    out = None
    if into is not None:
        out = [in_layout(torch.full_like(g, float("nan")), into) for g in grads[0]]
    for d, truth in zip(backend.combine(mixed, weights, out=out), reference(mixed, weights), strict=True):
        torch.testing.assert_close(d, truth, rtol=2**-23, atol=0)


def test_result_keeps_a_shared_layout() -> None:
    grads = [torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last) for _ in range(2)]
    d = combine(grads, [1.0, 2.0])
    assert d.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(d, grads[0] + 2 * grads[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("accumulate", [False, True])
def test_out(backend: Backend, dtype: torch.dtype, accumulate: bool) -> None:
    shapes = [(3, 3), (2000,), (5,), (2,)]
    grads = with_none(task_gradients(shapes, 3, dtype, device=backend.device))
    ((*start,),) = task_gradients(shapes, 1, dtype, seed=1, device=backend.device)
    weights = weights_for(3, backend.device)
    out = [s.clone() for s in start]
    result = backend.combine(grads, weights, out=out, accumulate=accumulate)
    assert all(r is o for r, o in zip(result, out, strict=True))
    for p, o in enumerate(out):
        column = [torch.zeros_like(o) if row[p] is None else row[p] for row in grads]
        assert_rounded_once(o, column, weights, start[p] if accumulate else None)


def test_out_may_hold_none_and_may_be_a_gradient(backend: Backend) -> None:
    grads = task_gradients([(7,), (2000,)], 2, torch.float32, device=backend.device)
    weights = weights_for(2, backend.device)
    truth = backend.combine(grads, weights)
    new, kept = backend.combine(grads, weights, out=[None, grads[1][1]], accumulate=False)
    assert torch.equal(new, truth[0])
    assert kept is grads[1][1]
    assert torch.equal(kept, truth[1])


def test_out_into_a_strided_view_leaves_its_neighbours(backend: Backend) -> None:
    wide = torch.full((40, 3), 7.0, device=backend.device)
    grads = [torch.randn(40, device=backend.device) for _ in range(2)]
    backend.combine(grads, [1.0, 1.0], out=wide[:, 1])
    assert (wide[:, ::2] == 7).all()
    assert torch.equal(wide[:, 1], grads[0] + grads[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_rounding_to_nearest_even(backend: Backend, dtype: torch.dtype) -> None:
    """Weights carry a float64 number through, so every kind of rounding case can be asked for."""
    info = torch.finfo(dtype)
    bits = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 23}[dtype]
    cases = [0.0, -0.0, 1e-300, 1e300, -1e300, info.max, info.max * (1 + 2.0 ** -(bits + 2)), info.tiny]
    exponents = [0, 3, -5, round(math.log2(info.tiny)), round(math.log2(info.tiny)) - 3]
    cases += [
        (1 + (mantissa + 0.5 + nudge) * 2.0**-bits) * 2.0**exponent
        for mantissa in (0, 1, 2, 3, 2**bits - 2, 2**bits - 1)
        for exponent in exponents
        for nudge in (0.0, 2.0**-45, -(2.0**-45))  # a tie, and just beside it
    ]
    subnormal = info.smallest_normal * info.eps
    cases += [subnormal * s for s in (0.5, 0.5 + 2.0**-40, 0.5 - 2.0**-40, 1.5, 2.5, 3.5)]
    one = torch.ones(9, dtype=dtype, device=backend.device)
    for x in cases:
        got = backend.combine([one], [x])
        # via integers: the nearest multiple of the spacing at x, ties to even
        scale = max(abs(x), info.smallest_normal)
        spacing = 2.0 ** (math.floor(math.log2(scale)) - bits)
        nearest = round(x / spacing) * spacing if abs(x) < 1e299 else math.copysign(math.inf, x)
        expected = nearest if abs(nearest) <= info.max else math.copysign(math.inf, x)
        assert got.double().tolist() == [expected] * 9, x
    assert backend.combine([one], [float("nan")]).isnan().all()


@pytest.mark.parametrize("k", [2, 9])
def test_same_bits_for_any_number_of_threads(backend: Backend, k: int) -> None:
    ((matrix,),) = task_gradients([(k, 200_003)], 1, torch.float32, device=backend.device)
    before = torch.get_num_threads()
    try:
        sums = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            sums.append(backend.combine(matrix, weights_for(k, backend.device)))
    finally:
        torch.set_num_threads(before)
    for a, b in pairwise(sums):
        assert torch.equal(a, b)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 70), min_size=1, max_size=6),
    k=st.integers(1, 12),
    seed=st.integers(0, 2**31),
)
def test_properties(backend: Backend, sizes: list[int], k: int, seed: int) -> None:
    grads = task_gradients([(n,) for n in sizes], k, torch.float32, seed=seed, device=backend.device)
    weights = weights_for(k, backend.device)
    sums = backend.combine(grads, weights)
    for p, d in enumerate(sums):
        assert_rounded_once(d, [row[p] for row in grads], weights)
    for d, scaled in zip(sums, backend.combine(grads, weights * 2.0**-9), strict=True):
        assert torch.equal(scaled, d * 2.0**-9)
    for i in range(k):  # a unit vector picks its task, exactly
        picked = backend.combine(grads, torch.eye(k, dtype=torch.float64, device=backend.device)[i])
        assert all(torch.equal(d, g) for d, g in zip(picked, grads[i], strict=True))


# autograd and torch.compile: one implementation for all backends


def test_gradcheck() -> None:
    a, b, c, d = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in [(3, 2), (5,), (3, 2), (5,)])
    weights = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def of_lists(weights: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> list[Tensor | None]:
        return combine([[a, b, None], [c, None, None], [None, d, None]], weights)[:2]

    assert torch.autograd.gradcheck(of_lists, (weights, a, b, c, d))
    assert torch.autograd.gradgradcheck(of_lists, (weights, a, b, c, d))
    matrix = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(combine, (matrix, weights))


def test_gradients_keep_their_dtypes() -> None:
    weights = torch.randn(2, requires_grad=True)
    a = torch.randn(4, dtype=torch.bfloat16, requires_grad=True)
    d = combine([a, torch.randn(4).bfloat16()], weights)
    d.sum().backward()
    assert (d.dtype, a.grad.dtype, weights.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


def test_writing_in_place_is_known_to_autograd() -> None:
    x = torch.randn(5, requires_grad=True)
    out = torch.randn(5)
    y = (x * out).sum()  # saves out
    combine([torch.ones(5), torch.ones(5)], [1.0, 1.0], out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("accumulate", [False, True])
def test_opcheck(accumulate: bool) -> None:
    grads = [torch.randn(3, 2), None, torch.randn(5), torch.randn(5), None, None]
    weights = torch.randn(2, dtype=torch.float64)
    torch.library.opcheck(torch.ops.pcl.combine.default, (grads, weights, 2))
    out = [torch.randn(3, 2), torch.randn(5)]
    torch.library.opcheck(torch.ops.pcl.combine_into.default, (grads, weights, 2, out, accumulate))


def test_compile_traces_through() -> None:
    def trace(a: Tensor, b: Tensor, c: Tensor, weights: Tensor) -> Tensor:
        d = combine([[a, b], [c, None]], weights)
        assert d[0] is not None
        return (d[0] ** 2).sum()

    a, b, c, weights = torch.randn(3, requires_grad=True), torch.randn(4), torch.randn(3), torch.randn(2)
    compiled = torch.compile(trace, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(a, b, c, weights), trace(a, b, c, weights))
    compiled(a, b, c, weights).backward()
    assert a.grad is not None

    def write(b: Tensor, out: Tensor, weights: Tensor) -> Tensor:
        combine([b, 2 * b], weights, out=out, accumulate=True)
        return out * 2

    one, two = torch.ones(4), torch.ones(4)
    compiled_write = torch.compile(write, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled_write(b, one, weights), write(b, two, weights))
    assert torch.equal(one, two)


# errors


X = torch.randn(2)


@pytest.mark.parametrize(
    ("grads", "weights", "options", "error", "words"),
    [
        ([X, X.double()], [1.0, 1.0], {}, TypeError, "task 1: dtype torch.float64 differs"),
        ([X, X], [1.0], {}, ValueError, "weights must have one entry a task, 2; got 1"),
        ([X, X], torch.ones(2, 1), {}, ValueError, "weights.*got \\(2, 1\\)"),
        ([X, X], torch.ones(2, dtype=torch.int64), {}, TypeError, "floating point; got torch.int64"),
        ([X, X], [torch.ones(()), 1.0], {}, TypeError, "got tensors. Use torch.stack"),
        ([X, X], [1.0, 1.0], {"accumulate": True}, ValueError, "accumulate=True needs out"),
        ([X, X], [1.0, 1.0], {"out": [X]}, ValueError, "out must have the form.*one tensor; got a list of 1"),
        ([[X], [X]], [1.0, 1.0], {"out": X}, ValueError, "a list of 1 tensors; got one tensor"),
        ([[X], [X]], [1.0, 1.0], {"out": [X, X]}, ValueError, "a list of 1 tensors; got a list of 2"),
        ([[X], [X]], [1.0, 1.0], {"out": [3.0]}, TypeError, "parameter 0: expected a tensor.*got float"),
        ([X, X], [1.0, 1.0], {"out": torch.ones(3)}, ValueError, "parameter 0: expected shape \\(2,\\)"),
        ([X, X], [1.0, 1.0], {"out": X.double()}, TypeError, "parameter 0: expected.*float32; got"),
        ([X, X], [1.0, 1.0], {"out": torch.ones(2, device="meta")}, ValueError, "device cpu; got"),
    ],
)  # fmt: skip
def test_refuses(grads: object, weights: object, options: dict, error: type[Exception], words: str) -> None:
    before = X.clone()
    with pytest.raises(error, match=f"combine: .*{words}"):
        combine(grads, weights, **options)  # type: ignore[call-overload]
    assert torch.equal(X, before)


def test_refuses_out_while_something_requires_grad() -> None:
    x = torch.randn(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="out cannot be written while"):
        combine([x, x], [1.0, 1.0], out=torch.zeros(2))
    with torch.no_grad():
        assert torch.equal(combine([x, x], [1.0, 1.0], out=torch.zeros(2)), 2 * x)


def test_a_refused_call_leaves_out_untouched() -> None:
    out = [torch.ones(2), torch.ones(3)]
    with pytest.raises(ValueError, match="parameter 1"):
        combine([[X, X], [X, X]], [1.0, 1.0], out=out)
    assert torch.equal(out[0], torch.ones(2))


def test_a_flag_may_be_a_number() -> None:
    gradients, sums = torch.randn(2, 5), torch.ones(5)
    found = combine(gradients, [0.5, 0.5], out=sums, accumulate=1)  # type: ignore[call-overload]
    torch.testing.assert_close(found, 1 + gradients.mean(dim=0))
