"""The distance of logits from stored ones and its derivative, against autograd in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pcl_kernels import logit_distance
from pcl_kernels.logit_distance import reference

SHAPES = {  # rows, columns, stored columns
    "one of everything": (1, 1, 1),
    "as it was": (10, 10, 10),
    "new columns": (7, 13, 9),
    "many columns": (33, 1000, 700),
    "nothing stored": (3, 4, 0),
}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def operands(name: str, dtype: torch.dtype = torch.float32, *, missing: bool = True) -> tuple[Tensor, Tensor]:
    rows, columns, known = SHAPES[name]
    draws = torch.Generator().manual_seed(0)
    now = torch.randn(rows, columns, generator=draws).to(dtype)
    then = torch.randn(rows, known, generator=draws).to(dtype)
    if missing and known > 1:  # every row has others, and one has none left
        then[torch.rand(rows, known, generator=draws) < 0.3] = torch.nan
        then[rows // 2] = torch.nan
        then[0, :2] = torch.tensor([torch.nan, 0.5], dtype=dtype)
    return now, then


def by_rows(now: Tensor, then: Tensor, factor: float, ignored: bool) -> tuple[Tensor, Tensor]:
    """Row by row and column by column, with autograd's derivative, in float64."""
    z = now.detach().double().requires_grad_()
    of_rows = []
    for row, stored in zip(z, then.double().tolist(), strict=True):
        known = {c: value for c, value in enumerate(stored) if value == value}
        least = min(known.values(), default=float("inf"))
        compared = known if ignored else {c: known.get(c, least) for c in range(len(row))}
        squares = [(row[c] - value) ** 2 for c, value in compared.items()]
        of_rows.append(factor * torch.stack(squares).mean() if squares else row.sum() * 0)
    loss = torch.stack(of_rows).mean()
    return loss.detach(), torch.autograd.grad(loss, z)[0]


def close(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    for mine, wanted in zip(found, expected, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, wanted.to(dtype), equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_it_is_what_autograd_finds(isa: str, name: str, ignored: bool, dtype: torch.dtype) -> None:
    for missing in (False, True):
        now, then = operands(name, dtype, missing=missing)
        expected = by_rows(now, then, 0.7, ignored)
        close(logit_distance(now, then, 0.7, ignored=ignored), expected, dtype)
        close(reference.logit_distance(now, then, 0.7, ignored), expected, dtype)


def test_a_sample_of_which_nothing_is_known_is_infinitely_far_or_adds_nothing(isa: str) -> None:
    now, then = torch.ones(2, 3), torch.tensor([[torch.nan] * 3, [0.0] * 3])
    assert logit_distance(now, then).loss == torch.inf
    loss, slopes = logit_distance(now, then, ignored=True)
    assert loss == 0.5
    assert logit_distance(now, then, ignored=1).loss == 0.5
    assert torch.equal(slopes, torch.tensor([[0.0] * 3, [1 / 3] * 3]))


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e15, 1e18])
def test_hard_numbers(isa: str, scale: float, ignored: bool) -> None:
    now, then = operands("new columns", missing=False)
    now, then = now * scale, then * scale
    close(logit_distance(now, then, ignored=ignored), by_rows(now, then, 1.0, ignored), torch.float32)


def test_what_overflows_is_infinite(isa: str) -> None:
    loss, slopes = logit_distance(torch.full((2, 3), 2e38), torch.full((2, 3), -2e38))
    assert loss == torch.inf
    assert slopes.isinf().all()


def test_no_samples(isa: str) -> None:
    for distance in (logit_distance, lambda now, then: reference.logit_distance(now, then, 1.0, False)):
        loss, slopes = distance(torch.ones(0, 3), torch.ones(0, 2))  # type: ignore[operator]
        assert loss.isnan()
        assert slopes.shape == (0, 3)


@pytest.mark.parametrize("changed", ["columns of more", "every other row", "transposed", "negated"])
def test_operands_as_they_lie(isa: str, changed: str) -> None:
    ways: dict[str, Any] = {
        "columns of more": lambda t: torch.cat([t, t], dim=1)[:, : t.shape[1]],
        "every other row": lambda t: t.repeat_interleave(2, dim=0)[::2],
        "transposed": lambda t: t.T.contiguous().T,
        "negated": lambda t: torch._neg_view(-t),
    }
    now, then = operands("new columns")
    expected = by_rows(now, then, 1.0, False)
    close(logit_distance(ways[changed](now), then), expected, torch.float32)
    close(logit_distance(now, ways[changed](then)), expected, torch.float32)


def test_it_asks_for_no_graph_and_is_known_to_torch() -> None:
    now, then = operands("new columns", missing=False)
    for dtype in (torch.float32, torch.float64):
        asked = now.to(dtype).requires_grad_()
        assert not any(t.requires_grad for t in logit_distance(asked, then.to(dtype)))
    torch.library.opcheck(
        torch.ops.pcl.logit_distance.default, (now.detach(), then, 1.0, False),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


def test_what_is_refused() -> None:
    now, then = operands("new columns")
    for stored in (then.double(), then.long()):
        with pytest.raises(TypeError, match="expected one floating dtype"):
            logit_distance(now, stored)
    with pytest.raises(TypeError, match="int64"):
        logit_distance(now.long(), then.long())
    for stored in (then[:3], then[0], torch.ones(7, 14), then.to("meta")):
        with pytest.raises(ValueError, match="expected logits"):
            logit_distance(now, stored)


@pytest.mark.gpu
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_on_a_gpu(name: str, ignored: bool) -> None:
    now, then = operands(name)
    found = logit_distance(now.cuda(), then.cuda(), ignored=ignored)
    close((found.loss.cpu(), found.slopes.cpu()), by_rows(now, then, 1.0, ignored), torch.float32)
