"""Losses and slopes of every row for itself, and cross-entropy by blocks, against float64 and beside other calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pcl_kernels import mlp_backward, mlp_losses, mlp_row_losses, mlp_row_slopes, softmax_losses
from pcl_kernels.mlp import reference
from tests.kernels.mlp_cases import CHAINS, Seen, chain, close


def labels(x: Tensor, weights: list[Tensor]) -> Tensor:
    return torch.arange(len(x)) % len(weights[-1])


def of_rows(x: Tensor, weights: list[Tensor], biases: list[Any], target: Tensor) -> tuple[Tensor, Tensor]:
    """By autograd in float64."""
    rows = x.double().requires_grad_()
    hidden = reference.mlp(rows, weights[:-1], biases[:-1]) if len(weights) > 1 else rows
    logits = hidden @ weights[-1].double().T + (0 if biases[-1] is None else biases[-1].double())
    losses = cross_entropy(logits, target, reduction="none")
    return losses.detach(), torch.autograd.grad(losses.sum(), rows)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_they_are_those_of_autograd(isa: str, name: str, dtype: torch.dtype) -> None:
    x, weights, biases = chain(name, dtype)
    biases[0] = None
    target = labels(x, weights)
    losses, slopes = of_rows(x, weights, biases, target)
    close(mlp_row_losses(x, weights, biases, target), losses)
    close(mlp_row_slopes(x, weights, biases, target), slopes)


@pytest.mark.parametrize("name", CHAINS)
def test_they_have_the_bits_of_blocks_of_one_row(isa: str, name: str) -> None:
    x, weights, biases = chain(name)
    target = labels(x, weights)
    run = mlp_losses(x, weights, biases, target, [1] * len(x))
    below = mlp_backward(x, weights, run.hidden, run.of_logits, of_x=True).x
    assert torch.equal(mlp_row_losses(x, weights, biases, target), run.losses)
    assert below is not None
    assert torch.equal(mlp_row_slopes(x, weights, biases, target), below)


def test_a_mode_sees_the_op_and_changes_no_bit(isa: str) -> None:
    x, weights, biases = chain("ragged")
    given = x, weights, biases, labels(x, weights)
    plain = mlp_row_losses(*given), mlp_row_slopes(*given)
    with Seen() as seen:
        observed = mlp_row_losses(*given), mlp_row_slopes(*given)
    assert all(map(torch.equal, plain, observed))
    assert isa == "baseline" or "mlp_rows" in seen.names
    if isa != "baseline":
        for slopes in (False, True):
            torch.library.opcheck(
                torch.ops.pcl.mlp_rows.default, (*given, slopes), test_utils=("test_schema", "test_faketensor")
            )


def test_operands_as_they_lie_and_no_graph(isa: str) -> None:
    x, weights, biases = chain("ragged")
    target = labels(x, weights)
    losses, slopes = of_rows(x, weights, biases, target)
    others = [x.T.contiguous().T, torch._neg_view(-x), x.clone().requires_grad_()]
    for other in others:
        close(mlp_row_losses(other, weights, biases, target), losses)
        found = mlp_row_slopes(other, weights, biases, target)
        assert not found.requires_grad
        close(found, slopes)
    every_other = torch.stack([target, target], dim=1)[:, 0]
    close(mlp_row_losses(x, weights, biases, every_other), losses)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = mlp_row_losses(x, weights, biases, target)
    torch.testing.assert_close(low.double(), losses, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("sizes", [[21], [1, 20], [7, 7, 7]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_cross_entropy_by_blocks_and_its_gradient(isa: str, sizes: list[int], dtype: torch.dtype) -> None:
    z = 5 * torch.randn(21, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    target, factors = torch.arange(21) % 6, [0.5, 2.0, 0.0][: len(sizes)]
    exact = z.double().requires_grad_()
    blocks = zip(factors, exact.split(sizes), target.split(sizes), strict=True)
    losses = torch.stack([f * cross_entropy(part, y) for f, part, y in blocks])
    found = softmax_losses(z, target, sizes, factors)
    wide = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 4 * torch.finfo(dtype).eps}
    torch.testing.assert_close(found.losses.double(), losses.detach(), **wide)
    torch.testing.assert_close(found.of_logits.double(), torch.autograd.grad(losses.sum(), exact)[0], **wide)


def test_cross_entropy_has_the_bits_of_the_chain(isa: str) -> None:
    x, weights, biases = chain("ragged")
    target, sizes, factors = labels(x, weights), [4, 17], [0.3, 1.0]
    run = mlp_losses(x, weights, biases, target, sizes, factors)
    for logits in (run.logits, torch.cat([run.logits, run.logits], dim=1)[:, : run.logits.shape[1]]):
        found = softmax_losses(logits, target, sizes, factors)
        assert torch.equal(found.losses, run.losses)
        assert torch.equal(found.of_logits, run.of_logits)


@pytest.mark.parametrize("hard", [torch.inf, torch.nan])
def test_a_factor_of_zero_leaves_out_what_is_not_finite(isa: str, hard: float) -> None:
    z = torch.tensor([[hard, 0.0], [1.0, 2.0]])
    found = softmax_losses(z, torch.tensor([0, 1]), [1, 1], [0.0, 1.0])
    assert found.losses[0] == 0
    assert not found.of_logits[0].any()
    assert torch.equal(found.losses[1:], softmax_losses(z[1:], torch.tensor([1]), [1]).losses)
    assert softmax_losses(z, torch.tensor([0, 1]), [1, 1]).losses[0].isnan()


def test_what_is_refused(isa: str) -> None:
    x, weights, biases = chain("ragged")
    target = labels(x, weights)
    for call in (mlp_row_losses, mlp_row_slopes, lambda *given: mlp_losses(*given, [21])):
        with pytest.raises(TypeError, match="expected a tensor x and a list of tensors"):
            call(x.tolist(), weights, biases, target)
        with pytest.raises(TypeError, match="expected a tensor x and a list of tensors"):
            call(x, [w.tolist() for w in weights], biases, target)
        with pytest.raises(ValueError, match="at least 1; got 0 and 0"):
            call(x, [], [], target)
        with pytest.raises(ValueError, match="layer 1"):
            call(x[0], weights, biases, target)
        with pytest.raises(ValueError, match="layer 2"):
            call(x, [weights[0], weights[1][0], weights[2]], biases, target)
    for call in (mlp_row_losses, mlp_row_slopes):
        with pytest.raises(ValueError, match="from 0 to 8"):
            call(x, weights, biases, target + 1)
        with pytest.raises(TypeError, match="int64"):
            call(x, weights, biases, target.int())
        with pytest.raises(ValueError, match="blocks of at least one row"):
            call(x, weights, biases, target[:3])
        with pytest.raises(ValueError, match="layer 1"):
            call(x[:, 1:], weights, biases, target)
        with pytest.raises(ValueError, match="blocks of at least one row"):
            call(x[:0], weights, biases, target[:0])
    with pytest.raises(ValueError, match=r"expected logits \(B, columns\)"):
        softmax_losses(x[0], target, [21])
    with pytest.raises(ValueError, match="a factor for each of 2 blocks, got 1"):
        softmax_losses(x, target, [4, 17], [1.0])


@pytest.mark.gpu
def test_on_a_gpu_they_are_made_of_torchs_operators() -> None:
    x, weights, biases = chain("ragged")
    target = labels(x, weights)
    losses, slopes = of_rows(x, weights, biases, target)
    there = x.cuda(), [w.cuda() for w in weights], [b.cuda() for b in biases], target.cuda()
    close(mlp_row_losses(*there).cpu(), losses)
    close(mlp_row_slopes(*there).cpu(), slopes)
