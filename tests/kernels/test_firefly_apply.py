"""Tensors with rows and columns chosen anew against the reference, on every backend: the same bits."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import pcl_kernels
from pcl_kernels import _C, firefly_apply
from pcl_kernels.firefly_apply import op, reference
from tests.kernels.backends import BACKENDS  # before triton: tells it to interpret where there is no GPU

assert BACKENDS
WAYS = [*_C.isas(), pytest.param("cuda", marks=pytest.mark.gpu)]
if importlib.util.find_spec("triton") and not torch.cuda.is_available():
    WAYS.append("triton-interpreted")
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SHAPES = [(5,), (4, 3), (3, 2, 5), (4, 3, 3, 2), (0, 3), (3, 0), (0,), (2, 0, 3, 3), (1, 1), (2, 70)]


@pytest.fixture(params=WAYS)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param in _C.isas():
        _C.use_isa(request.param)
    elif request.param == "triton-interpreted":
        gpu = pytest.importorskip("pcl_kernels.firefly_apply.triton")
        monkeypatch.setattr(op, "_cpu", gpu.firefly_apply)
        monkeypatch.setattr(gpu, "TILE", 64)  # so that rows have several
    yield "cuda" if request.param == "cuda" else "cpu"
    _C.use_isa(_C.isas()[-1])


def numbers(shape: tuple[int, ...], dtype: torch.dtype, draws: torch.Generator) -> Tensor:
    return (4 * torch.randn(shape, generator=draws)).to(dtype)


def problem(shape: tuple[int, ...], dtype: torch.dtype, seed: int, form: int) -> dict[str, Tensor | None]:
    """One tensor with what `form` says, bit by bit: extra rows, extra columns, corner, scales."""
    draws = torch.Generator().manual_seed(seed)
    vector = len(shape) == 1
    more, wide = (3 if form & 1 else 0), (0 if vector else 2 if form & 2 else 0)
    tall = shape[0] + (more if form & 4 else 0)

    def index(length: int, size: int) -> Tensor:
        return torch.randint(-1, length, (size,), generator=draws)

    rows = None if form & 16 else index(shape[0] + more, shape[0] + 4)
    columns = None if vector or form & 32 else index(shape[1] + wide, shape[1] + 3)
    if columns is not None and shape[1] > 4:
        columns[1 : shape[1] - 1] = torch.arange(2, shape[1])  # a long run too

    def scale(axis: int, picked: Tensor | None) -> Tensor | None:
        if not (form & 8 and dtype.is_floating_point) or axis >= len(shape):
            return None
        return torch.randn(shape[axis] if picked is None else len(picked), generator=draws).to(FLOATS[axis])

    return {
        "tensor": numbers(shape, dtype, draws),
        "rows": rows,
        "columns": columns,
        "extra_rows": numbers((more, *shape[1:]), dtype, draws) if form & 1 else None,
        "extra_columns": numbers((tall, wide, *shape[2:]), dtype, draws) if wide else None,
        "row_scale": scale(0, rows),
        "column_scale": scale(1, columns),
    }


def together(problems: list[dict[str, Tensor | None]], device: str) -> dict[str, Any]:
    """The arguments of one call."""
    listed = {name: [p[name] for p in problems] for name in problems[0]}
    listed["tensors"] = listed.pop("tensor")
    return {name: [None if t is None else t.to(device) for t in values] for name, values in listed.items()}


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert x.is_contiguous()
        assert torch.equal(x, y)


DTYPES = [*FLOATS, torch.bool, torch.int64, torch.uint8, torch.int16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_forms_in_one_call(dtype: torch.dtype, device: str) -> None:
    problems = [problem(shape, dtype, n, form) for n, shape in enumerate(SHAPES) for form in range(64)]
    if op._cpu.__module__ != op.__name__:
        problems = problems[DTYPES.index(dtype) :: 37]  # the interpreter is slow
    call = together(problems, device)
    assert_same_bits(firefly_apply(**call), reference.firefly_apply(**call))


def test_different_dtypes_and_memory_orders_in_one_call(device: str) -> None:
    problems = [problem((4, 6, 3, 2), dtype, n, 15) for n, dtype in enumerate(FLOATS)]
    call = together(problems, device)
    expected = reference.firefly_apply(**call)
    apart = {
        name: [
            t
            if t is None
            else t.contiguous(memory_format=torch.channels_last)
            if t.dim() == 4
            else t.repeat(2)[::1][: len(t)]
            for t in values
        ]
        for name, values in call.items()
    }
    assert not apart["tensors"][0].is_contiguous()
    assert_same_bits(firefly_apply(**apart), expected)
    apart["rows"] = [torch.stack([r, r], 1)[:, 0] for r in call["rows"]]
    assert_same_bits(firefly_apply(**apart), expected)
    turned = [t.movedim(0, 1).contiguous().movedim(0, 1) for t in call["tensors"]]
    assert_same_bits(firefly_apply(**{**call, "tensors": turned}), expected)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # 0 * inf, in the interpreter
def test_the_formula_entry_by_entry(device: str) -> None:
    t = torch.arange(6.0, device=device).view(2, 3)
    below, right = 10 + torch.arange(3.0, device=device).view(1, 3), 20 + torch.arange(4.0, device=device).view(2, 2)
    rows, columns = torch.tensor([1, 2, -1], device=device), torch.tensor([0, 4, 2, -1], device=device)
    half = torch.tensor([1.0, 0.5, torch.inf], device=device)
    given = {"extra_rows": [below], "extra_columns": [right], "row_scale": half}
    (out,) = firefly_apply([t], rows, columns, **given)
    assert out.tolist() == [[3, 23, 5, 0], [5, 0, 6, 0], [0, 0, 0, 0]]
    given["extra_columns"] = [torch.cat([right, right[:1]])]  # with a corner
    (out,) = firefly_apply([t], rows, columns, **given)
    assert out.tolist() == [[3, 23, 5, 0], [5, 10.5, 6, 0], [0, 0, 0, 0]]
    (same,) = firefly_apply([t])
    assert torch.equal(same, t)
    assert same.data_ptr() != t.data_ptr()
    assert firefly_apply([]) == []


def test_an_index_out_of_range_gives_zeros_where_nobody_can_wait() -> None:
    gpu = pytest.importorskip("pcl_kernels.firefly_apply.triton")
    if torch.cuda.is_available():
        pytest.skip("runs on the device instead")
    t = torch.ones(2, 3)
    none: list[Any] = [None]
    (out,) = gpu.firefly_apply(
        [t], [torch.tensor([0, 2, -7, 10**12])], [torch.tensor([3, 0, -5])], none, none, none, none
    )
    assert out.tolist() == [[0, 1, 0], [0] * 3, [0] * 3, [0] * 3]


def test_large_tensors_do_not_depend_on_the_number_of_threads() -> None:
    problems = [problem((600, 300), torch.float32, 1, 15), problem((64, 128, 3, 3), torch.bfloat16, 2, 15)]
    call = together(problems, "cpu")
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(firefly_apply(**call))
    finally:
        torch.set_num_threads(before)
    for other in found:
        assert_same_bits(other, reference.firefly_apply(**call))


def test_torch_accepts_the_op() -> None:
    call = together([problem((4, 3), torch.float64, 1, 15), problem((5,), torch.float32, 2, 9)], "cpu")
    names = ("tensors", "rows", "columns", "extra_rows", "extra_columns", "row_scale", "column_scale")
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.pcl.firefly_apply.default, tuple(call[n] for n in names), test_utils=tests)
    traced = torch.compile(lambda t, r: firefly_apply([t], r)[0] + 1, backend="eager", fullgraph=True)
    t, rows = torch.rand(4, 3), torch.tensor([3, -1, 0])
    assert torch.equal(traced(t, rows), firefly_apply([t], rows)[0] + 1)
    assert not firefly_apply([torch.nn.Parameter(t)], rows)[0].requires_grad
    assert "firefly_apply" in pcl_kernels.__all__


T, V, N = torch.ones(2, 3), torch.ones(2), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"tensors": T}, TypeError, "tensors: expected a list of tensors, got Tensor"),
        ({"tensors": [T, 3]}, TypeError, "tensors: expected tensors, got Tensor, int"),
        ({"tensors": [torch.tensor(1.0)]}, ValueError, "at least one dimension"),
        ({"rows": [N, N]}, ValueError, "rows: expected 1 entries, one per tensor; got 2"),
        ({"extra_rows": T}, ValueError, "extra_rows: expected 1 entries.* got a tensor"),
        ({"rows": N.int()}, TypeError, r"rows: expected int64, got torch\.int32"),
        ({"rows": N[None]}, ValueError, r"rows: expected shape \(any,\), got \(1, 2\)"),
        ({"rows": N + 1}, ValueError, r"0 of shape \(2, 3\): rows: .* -1 \(zeros\) to 1.*got 1 to 2"),
        ({"columns": N - 2}, ValueError, "columns: expected indices .* got -2 to -1"),
        ({"tensors": [V], "columns": N}, ValueError, "a vector has no columns"),
        ({"extra_rows": [T[:, :2]]}, ValueError, r"extra_rows: expected \(any, 3\), got \(2, 2\)"),
        ({"extra_columns": [T[:1]]}, ValueError, r"extra_columns: expected \(2, any\), got \(1, 3\)"),
        ({"extra_rows": [T.double()]}, TypeError, r"extra_rows: expected torch\.float32"),
        ({"rows": N, "row_scale": torch.ones(3)}, ValueError, r"row_scale: expected shape \(2,\), got \(3,\)"),
        ({"column_scale": N}, ValueError, r"column_scale: expected shape \(3,\)"),
        ({"rows": N, "row_scale": N}, TypeError, "row_scale: expected a floating dtype"),
        ({"tensors": [T.long()], "row_scale": V}, TypeError, r"can be scaled, and this is torch\.int64"),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        firefly_apply(**{"tensors": [T], **arguments})
