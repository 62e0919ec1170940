"""Rows of a memory take up samples of a batch, as torch's own operators have it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pcl.memory.placement import Placement

SAMPLE_AT = {7: 0, 2: 3, 4: 3, 0: 1}
LIES: dict[str, Callable[[Tensor], Tensor]] = {
    "in a row": lambda x: x,
    "across": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "negated": lambda x: torch._neg_view(-x),
    "with a graph": lambda x: x.clone().requires_grad_(),
}


def by_torch(column: Tensor, values: Tensor) -> Tensor:
    rows, samples = torch.tensor(list(SAMPLE_AT)), torch.tensor(list(SAMPLE_AT.values()))
    return column.index_copy(0, rows, values.detach().index_select(0, samples))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8], ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_samples_come_to_their_rows(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    column, values = (torch.randint(256, (n, *shape)).to(dtype) for n in (8, 5))
    expected = by_torch(column, values)
    again = column.clone()
    Placement(SAMPLE_AT).put(values, column, again)
    assert torch.equal(column, expected)
    assert torch.equal(again, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lies", LIES)
def test_samples_as_they_lie(lies: str, dtype: torch.dtype) -> None:
    column, values = torch.randn(8, 3, dtype=dtype), torch.randn(5, 3, dtype=dtype)
    expected = by_torch(column, values)
    Placement(SAMPLE_AT).put(LIES[lies](values), column)
    assert torch.equal(column, expected)
    assert not column.requires_grad


def test_another_dtype_or_shape_is_refused_and_changes_nothing() -> None:
    column = torch.randn(8, 3)
    before = column.clone()
    with pytest.raises(RuntimeError, match="dtype"):
        Placement(SAMPLE_AT).put(torch.randn(5, 3, dtype=torch.float64), column)
    with pytest.raises(RuntimeError, match="shape"):
        Placement(SAMPLE_AT).put(torch.randn(5, 1), column)
    assert torch.equal(column, before)


def test_a_graph_over_what_was_there_is_refused() -> None:
    for change in (lambda p, c: p.put(c + 1, c), lambda p, c: p.fill(c, 2)):
        column = torch.arange(8)
        weights = torch.ones(8, requires_grad=True)
        total = (column * weights).sum()
        change(Placement({1: 0}), column)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            total.backward()


def test_one_value_for_all() -> None:
    column = torch.arange(8)
    Placement(SAMPLE_AT).fill(column, -1)
    assert column.tolist() == [-1, 1, -1, 3, -1, 5, 6, -1]
    Placement({}).fill(column, 9)
    Placement({}).put(torch.arange(5), column)
    assert 9 not in column.tolist()
    numbers = torch.zeros(8, dtype=torch.bfloat16)
    Placement(SAMPLE_AT).fill(numbers, 1)
    assert numbers.tolist() == [1, 0, 1, 0, 1, 0, 0, 1]


@pytest.mark.gpu
@pytest.mark.parametrize(("of_column", "of_values"), [("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")])
def test_across_devices(of_column: str, of_values: str) -> None:
    column, values = torch.randn(8, 3), torch.randn(5, 3)
    there = column.to(of_column)
    placement = Placement(SAMPLE_AT)
    placement.put(values.to(of_values), there)
    assert torch.equal(there.cpu(), by_torch(column, values))
    placement.fill(there, 2)
    assert (there.cpu()[list(SAMPLE_AT)] == 2).all()
