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
    Placement(SAMPLE_AT).put(column, values)
    assert torch.equal(column, expected)


@pytest.mark.parametrize("lies", LIES)
def test_samples_as_they_lie(lies: str) -> None:
    column, values = torch.randn(8, 3), torch.randn(5, 3)
    expected = by_torch(column, values)
    Placement(SAMPLE_AT).put(column, LIES[lies](values))
    assert torch.equal(column, expected)
    assert not column.requires_grad


def test_another_dtype_is_refused_and_changes_nothing() -> None:
    column = torch.randn(8, 3)
    before = column.clone()
    with pytest.raises(RuntimeError, match="dtype"):
        Placement(SAMPLE_AT).put(column, torch.randn(5, 3, dtype=torch.float64))
    assert torch.equal(column, before)


def test_one_value_for_all() -> None:
    column = torch.arange(8)
    Placement(SAMPLE_AT).fill(column, -1)
    assert column.tolist() == [-1, 1, -1, 3, -1, 5, 6, -1]
    Placement({}).fill(column, 9)
    Placement({}).put(column, torch.arange(5))
    assert 9 not in column.tolist()


@pytest.mark.gpu
@pytest.mark.parametrize(("of_column", "of_values"), [("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")])
def test_across_devices(of_column: str, of_values: str) -> None:
    column, values = torch.randn(8, 3), torch.randn(5, 3)
    there = column.to(of_column)
    placement = Placement(SAMPLE_AT)
    placement.put(there, values.to(of_values))
    assert torch.equal(there.cpu(), by_torch(column, values))
    placement.fill(there, 2)
    assert (there.cpu()[list(SAMPLE_AT)] == 2).all()
