"""gramian against its reference, against exact arithmetic, and the properties it promises."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pcl_kernels import gramian
from pcl_kernels.gramian.reference import gramian as reference
from tests.kernels.backends import Backend
from tests.kernels.gradient_cases import DTYPES, LAYOUTS, SHAPES, in_layout, task_gradients, with_none

EPS = torch.finfo(torch.float64).eps


def assert_near(gram: Tensor, truth: Tensor, *, terms: int) -> None:
    """Within the error that float64 sums of `terms` products of these norms may have, and symmetric."""
    norms = truth.diagonal().sqrt()
    bound = EPS * (2 + math.sqrt(terms)) * 4 * norms[:, None] * norms
    assert gram.shape == truth.shape
    assert ((gram - truth).abs() <= bound).all(), (gram - truth).abs().max()
    assert torch.equal(gram, gram.T)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("k", [1, 2, 3, 5, 6, 11, 25])
def test_lists_of_tensors(backend: Backend, k: int, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    grads = task_gradients(shapes, k, dtype, device=backend.device)
    gram = backend.gramian(grads)
    assert gram.dtype == torch.float64
    assert_near(gram, reference(grads), terms=sum(math.prod(s) for s in shapes))


@pytest.mark.parametrize("k", [1, 2, 7, 40, 65])
@pytest.mark.parametrize("m", [0, 1, 9, 1000, 20_001])
def test_matrix_flat_tensors_and_lists_agree_to_the_bit(backend: Backend, k: int, m: int) -> None:
    ((matrix,),) = task_gradients([(k, m)], 1, torch.float32, device=backend.device)
    gram = backend.gramian(matrix)
    assert_near(gram, reference(matrix), terms=m)
    cut = m // 3
    assert torch.equal(gram, backend.gramian(list(matrix)))
    split = backend.gramian([[g[:cut], g[cut:]] for g in matrix])
    if backend.bits_follow_split:
        assert_near(split, gram, terms=m)
    else:
        assert torch.equal(gram, split)
    assert torch.equal(gram, backend.gramian(tuple(matrix.reshape(k, m, 1))))


@pytest.mark.parametrize("k", [2, 3, 8])
def test_none_is_zero(backend: Backend, k: int) -> None:
    full = task_gradients([(3, 4), (9,), (2, 2), (300,), (1,)], k, torch.float32, device=backend.device)
    grads = with_none(full)
    zeros = [
        [torch.zeros_like(f) if g is None else g for f, g in zip(*rows, strict=True)]
        for rows in zip(full, grads, strict=True)
    ]
    assert torch.equal(backend.gramian(grads), backend.gramian(zeros))
    assert torch.equal(gramian([[None], [None]]), torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("second", LAYOUTS)
def test_memory_layouts(backend: Backend, first: str, second: str) -> None:
    grads = task_gradients([(4, 6, 5), (33, 17)], 4, torch.float32, device=backend.device)
    mixed = [[in_layout(g, first if i % 2 else second) for g in row] for i, row in enumerate(grads)]
    assert_near(backend.gramian(mixed), reference(mixed), terms=700)


def test_rows_of_a_wider_matrix_and_a_transposed_matrix(backend: Backend) -> None:
    ((wide,),) = task_gradients([(6, 900)], 1, torch.float32, device=backend.device)
    for matrix in (wide[:, 100:777], wide[::2], wide.T, wide[:, ::3], wide[0].expand(4, 900)):
        assert_near(backend.gramian(matrix), reference(matrix), terms=900)


def test_negated_view_is_read_with_its_sign() -> None:
    z = torch.randn(3, 5, dtype=torch.complex64)
    grads = [z.conj().imag, z.imag]
    assert grads[0].is_neg()
    assert_near(gramian(grads), reference(grads), terms=15)
    one = torch.randn(1, dtype=torch.complex64)
    assert gramian([one.conj().imag, one.imag])[0, 1] <= 0


def test_dtypes_may_differ_between_parameters(backend: Backend) -> None:
    low = task_gradients([(301,)], 3, torch.bfloat16, device=backend.device)
    high = task_gradients([(77,)], 3, torch.float64, seed=1, device=backend.device)
    grads = [a + b for a, b in zip(low, high, strict=True)]
    assert_near(backend.gramian(grads), reference(grads), terms=378)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_out_dtype(backend: Backend, dtype: torch.dtype) -> None:
    grads = task_gradients([(50,)], 3, torch.float32, device=backend.device)
    gram = backend.gramian(grads, out_dtype=dtype)
    assert gram.dtype == dtype
    assert torch.equal(gram, backend.gramian(grads).to(dtype))


@pytest.mark.parametrize("columns", [1, 8], ids=["scalar-path", "vector-path"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_number_is_widened_exactly(backend: Backend, dtype: torch.dtype, columns: int) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    if backend.name == "triton-interpreted":  # the interpreter itself loses digits of subnormal numbers
        every = every[(every.abs() >= torch.finfo(dtype).tiny) | (every == 0)]
    for values in every.split(400):
        matrix = torch.zeros(1 + len(values), columns, dtype=dtype)
        matrix[0] = 1
        matrix[1 + torch.arange(len(values)), torch.arange(len(values)) % columns] = values
        gram = backend.gramian(matrix.to(backend.device))
        assert torch.equal(gram[0, 1:].cpu(), values.double())


def test_infinity_and_nan_reach_the_result(backend: Backend) -> None:
    for dtype in DTYPES:
        grads = task_gradients([(40,)], 3, dtype, device=backend.device)
        grads[1][0][17] = float("inf")
        grads[2][0][39] = float("nan")
        gram = backend.gramian(grads)
        assert gram[0, 0].isfinite()
        assert gram[1, 1] == float("inf")
        assert gram[2].isnan().all()


def cancelling(m: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two float32 vectors whose product is about 1e-4 of the sum of absolute products."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, m // 2, generator=generator)
    noise = torch.randn(m // 2, generator=generator)
    order = torch.randperm(m // 2 * 2, generator=generator)
    return torch.cat([x, x])[order], torch.cat([y, -y * (1 + 1e-4 * (1 + noise))])[order]


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("seed", range(3))
def test_cancellation_against_exact_sums(backend: Backend, seed: int) -> None:
    a, b = cancelling(400_000, seed)
    # products of float32 numbers are exact in float64, and fsum adds without error
    exact = math.fsum((a.double() * b.double()).tolist())
    absolute = (a.double() * b.double()).abs().sum().item()
    gram = backend.gramian([a.to(backend.device), b.to(backend.device)])
    assert abs(exact) < 1e-3 * absolute
    assert abs(gram[0, 1].item() - exact) <= 1e-8 * abs(exact)
    float32_error = abs((a @ b).item() - exact)
    assert float32_error > 1e-6 * abs(exact), "the data must be hard for float32"


def test_integers_are_summed_exactly(backend: Backend) -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randint(-(2**11), 2**11, (9, 30_011), generator=generator)
    gram = backend.gramian((rows * 2.0**-30).to(backend.device, torch.float32))
    exact = rows @ rows.T  # integers below 2^37: exact
    assert torch.equal(gram.cpu(), exact.double() * 2.0**-60)


def test_extreme_norms(backend: Backend) -> None:
    ((base,),) = task_gradients([(3, 5000)], 1, torch.float32, device=backend.device)
    scale = torch.tensor([1e-20, 1.0, 1e20], device=backend.device)
    matrix = base * scale[:, None]
    assert_near(backend.gramian(matrix), reference(matrix), terms=5000)


@pytest.mark.parametrize("k", [2, 9])
def test_same_bits_for_any_number_of_threads(backend: Backend, k: int) -> None:
    ((matrix,),) = task_gradients([(k, 200_003)], 1, torch.float32, device=backend.device)
    before = torch.get_num_threads()
    try:
        grams = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            grams.append(backend.gramian(matrix))
    finally:
        torch.set_num_threads(before)
    for a, b in pairwise(grams):
        assert torch.equal(a, b)


parameter_sizes = st.lists(st.integers(0, 70), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=parameter_sizes, k=st.integers(1, 12), seed=st.integers(0, 2**31), data=st.data())
def test_properties(backend: Backend, sizes: list[int], k: int, seed: int, data: st.DataObject) -> None:
    grads = task_gradients([(n,) for n in sizes], k, torch.float32, seed=seed, device=backend.device)
    gram = backend.gramian(grads)
    assert_near(gram, reference(grads), terms=sum(sizes))
    order = data.draw(st.permutations(range(k)))
    assert torch.equal(backend.gramian([grads[i] for i in order]), gram[order][:, order])
    shift = data.draw(st.integers(-20, 20))
    scaled = [[g * 2.0**shift for g in row] for row in grads]
    assert torch.equal(backend.gramian(scaled), gram * 4.0**shift)


# autograd and torch.compile: one implementation for all backends


def test_gradcheck() -> None:
    a, b, c, d = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in [(3, 2), (5,), (3, 2), (5,)])

    def of_lists(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return gramian([[a, b], [c, None], [None, d]])

    assert torch.autograd.gradcheck(of_lists, (a, b, c, d))
    assert torch.autograd.gradgradcheck(of_lists, (a, b, c, d))
    matrix = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gramian, (matrix,))


def test_gradient_is_the_formula_and_only_where_wanted() -> None:
    a = torch.randn(4, requires_grad=True)
    b = torch.randn(4)
    weight = torch.randn(2, 2, dtype=torch.float64)
    (gramian([a, b]) * weight).sum().backward()
    both = weight + weight.T
    torch.testing.assert_close(a.grad, (both[0, 0] * a + both[0, 1] * b).detach().float())
    assert not gramian([b, b]).requires_grad
    with torch.no_grad():
        assert not gramian([a, b]).requires_grad


def test_functorch_grad_and_fake_mode() -> None:
    matrix = torch.randn(3, 4, dtype=torch.float64)
    assert torch.allclose(torch.func.grad(lambda x: gramian(x).trace())(matrix), 2 * matrix)
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode()
    rows = [mode.from_tensor(g) for g in matrix]
    with mode:
        fake = gramian(rows)
    assert fake.shape == (3, 3)
    assert fake.dtype == torch.float64


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad: bool) -> None:
    grads = [torch.randn(3, 2, requires_grad=requires_grad), None, torch.randn(5), torch.randn(5)]
    with torch.no_grad():
        torch.library.opcheck(torch.ops.pcl.gramian.default, (grads, 2))


def test_compile_traces_through() -> None:
    def trace(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return gramian([[a, b], [c, None]]).trace()

    a, b, c = torch.randn(3, requires_grad=True), torch.randn(4), torch.randn(3)
    compiled = torch.compile(trace, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(a, b, c), trace(a, b, c))
    compiled(a, b, c).backward()
    torch.testing.assert_close(a.grad, 2 * a.detach())


# errors


@pytest.mark.parametrize(
    ("grads", "error", "words"),
    [
        (torch.randn(3), ValueError, "must be \\(k, m\\).*shape \\(3,\\)"),
        (torch.randn(0, 3), ValueError, "at least one task"),
        ([], ValueError, "at least one task"),
        ("abc", TypeError, "sequence of k tensors"),
        (None, TypeError, "got NoneType"),
        ([torch.randn(2), [torch.randn(2)]], TypeError, "task 1 must be a tensor; got list"),
        ([[torch.randn(2)], torch.randn(2)], TypeError, "task 1 must be a list of tensors; got Tensor"),
        ([[torch.randn(2)], [torch.randn(2)] * 2], ValueError, "task 0 has 1, task 1 has 2"),
        ([[torch.randn(2)], [3.0]], TypeError, "task 1, parameter 0: expected a tensor or None; got float"),
        ([torch.randn(2), torch.ones(2, dtype=torch.int64)], TypeError, "task 1: expected float16.*int64"),
        ([torch.randn(2), torch.randn(2, dtype=torch.cfloat)], TypeError, "task 1: expected.*complex64"),
        ([torch.randn(2), torch.randn(2).double()], TypeError, "task 1: dtype torch.float64 differs"),
        ([torch.randn(2), torch.randn(2, 1)], ValueError, "task 1: shape \\(2, 1\\) differs from \\(2,\\)"),
        ([[None, torch.randn(2)], [None, torch.randn(3)]], ValueError, "task 1, parameter 1: shape \\(3,\\)"),
        ([torch.randn(2), torch.randn(2, device="meta")], ValueError, "task 1: on meta.*on cpu"),
        ([torch.randn(2, 2).to_sparse()], TypeError, "task 0: expected a strided.*to_dense"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_refuses(grads: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"gramian: .*{words}"):
        gramian(grads)  # type: ignore[arg-type]


def test_refuses_integer_out_dtype() -> None:
    with pytest.raises(TypeError, match=r"out_dtype must be.*int64.*float64"):
        gramian([torch.randn(2)], out_dtype=torch.int64)


@pytest.mark.slow
def test_cancellation_at_a_hundred_million_columns() -> None:
    a, b = cancelling(100_000_000, 0)
    exact = sum(
        math.fsum((x.double() * y.double()).tolist())
        for x, y in zip(a.split(5_000_000), b.split(5_000_000), strict=True)
    )
    assert abs(gramian([a, b])[0, 1].item() - exact) <= 1e-6 * abs(exact)
