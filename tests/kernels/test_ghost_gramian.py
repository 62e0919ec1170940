"""The Gramian of a linear layer's gradients without the gradients, against gradients that are formed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pcl_kernels import ghost_gramian
from pcl_kernels.ghost_gramian import reference

SHAPES = {  # widths of a and delta, sizes of the blocks
    "one of everything": (1, 1, [1]),
    "one block": (7, 5, [6]),
    "ragged": (37, 19, [3, 1, 8, 5]),
    "columns in parts": (2500, 1030, [4, 4]),
    "an empty block": (16, 8, [2, 0, 3]),
    "no columns": (0, 4, [2, 2]),
    "no rows": (3, 4, [0, 0]),
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def operands(name: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, list[int]]:
    n, m, sizes = SHAPES[name]
    draws = torch.Generator().manual_seed(0)
    a, delta = (torch.randn(sum(sizes), width, generator=draws, dtype=torch.float64) for width in (n, m))
    return a.to(dtype), delta.to(dtype), sizes


def formed(a: Tensor, delta: Tensor, sizes: Sequence[int], bias: bool) -> Tensor:
    """From the gradients themselves, in float64."""
    blocks = zip(a.double().split(list(sizes)), delta.double().split(list(sizes)), strict=True)
    flat = [torch.cat([(d.T @ x).flatten(), *([d.sum(dim=0)] if bias else [])]) for x, d in blocks]
    return torch.stack(flat) @ torch.stack(flat).T


def close(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.float64
    assert torch.equal(found, found.T)
    limit = 1e-13 * (expected.abs().max().item() if expected.numel() else 0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=limit)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_it_is_that_of_the_gradients(isa: str, name: str, bias: bool, dtype: torch.dtype) -> None:
    a, delta, sizes = operands(name, dtype)
    expected = formed(a, delta, sizes, bias)
    close(ghost_gramian(a, delta, sizes, bias=bias), expected)
    close(reference.ghost_gramian(a, delta, sizes, bias), expected)


def test_no_blocks(isa: str) -> None:
    for gram in (ghost_gramian, reference.ghost_gramian):
        assert gram(torch.zeros(0, 3), torch.zeros(0, 2), []).shape == (0, 0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_numbers_out_of_the_range_of_float32(isa: str, scale: float) -> None:
    a, delta, sizes = operands("ragged")
    a, delta = a * scale, delta * scale
    close(ghost_gramian(a, delta, sizes, bias=True), formed(a, delta, sizes, True))


def test_what_cancels_is_nothing(isa: str) -> None:
    a = torch.ones(2, 5)
    assert ghost_gramian(a, torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), [2], bias=True).item() == 0
    assert ghost_gramian(a * torch.nan, a, [1, 1]).isnan().all()


@pytest.mark.parametrize("changed", ["columns of more", "every other row", "transposed", "negated"])
def test_operands_as_they_lie(isa: str, changed: str) -> None:
    a, delta, sizes = operands("ragged")
    expected = formed(a, delta, sizes, False)
    if changed == "columns of more":
        delta = torch.cat([delta, delta], dim=1)[:, :19]
    elif changed == "every other row":
        delta = delta.repeat_interleave(2, dim=0)[::2]
    elif changed == "transposed":
        delta = delta.T.contiguous().T
    else:
        delta = torch._neg_view(-delta)
    close(ghost_gramian(a, delta, sizes), expected)


def test_the_same_bits_for_any_number_of_threads() -> None:
    draws = torch.Generator().manual_seed(0)
    a, delta = torch.randn(90, 1500, generator=draws), torch.randn(90, 700, generator=draws)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(ghost_gramian(a, delta, [50, 40]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    close(found[0], formed(a, delta, [50, 40], False))


def test_it_asks_for_no_graph_and_is_known_to_torch() -> None:
    a, delta, sizes = operands("ragged")
    a.requires_grad_()
    assert not ghost_gramian(a, delta, sizes).requires_grad
    torch.library.opcheck(
        torch.ops.pcl.ghost_gramian.default, (a.detach(), delta, sizes, True),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


def test_what_is_refused() -> None:
    a, delta, sizes = operands("ragged")
    with pytest.raises(TypeError, match="int64"):
        ghost_gramian(a.long(), delta, sizes)
    for other in (delta[:3], delta[0], delta.to("meta")):
        with pytest.raises(ValueError, match="expected a"):
            ghost_gramian(a, other, sizes)
    for blocks in ([3], [18, -1], []):
        with pytest.raises(ValueError, match="17 rows"):
            ghost_gramian(a, delta, blocks)


@pytest.mark.gpu
@pytest.mark.parametrize("bias", [False, True])
def test_on_a_gpu(bias: bool) -> None:
    a, delta, sizes = operands("ragged")
    close(ghost_gramian(a.cuda(), delta.cuda(), sizes, bias=bias).cpu(), formed(a, delta, sizes, bias))
