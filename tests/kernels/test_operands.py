"""Calls that are as usual are read in C++; all others take the careful way, to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcl_kernels import _C, combine, combine_adamw_, combine_sgd_, gramian
from pcl_kernels._gradients import READ_IN_CPP
from tests.kernels.gradient_cases import DTYPES, task_gradients, with_none

pytestmark = pytest.mark.skipif(not READ_IN_CPP, reason="torch < 2.10 has no table of C functions for tensors")


def one() -> Tensor:
    return torch.randn(3, 4)


class Subclass(Tensor):
    pass


def zero_tensor() -> Tensor:
    return torch._efficientzerotensor((3, 4))


USUAL: dict[str, Callable[[], Any]] = {
    "matrix": lambda: torch.randn(2, 9),
    "rows of a wider matrix": lambda: torch.randn(2, 9)[:, 2:5],
    "one row many times": lambda: torch.randn(9).expand(3, 9),
    "empty rows": lambda: torch.randn(2, 0),
    "flat": lambda: [one(), one()],
    "tuple": lambda: (one(), one()),
    "one task": lambda: [one()],
    "lists": lambda: [[one(), torch.randn(2)], [one(), torch.randn(2)]],
    "lists with None": lambda: [[one(), None], (None, torch.randn(2))],
    "nothing but None": lambda: [[None], [None]],
    "no parameters": lambda: [[], []],
    "parameters": lambda: [nn.Parameter(one(), requires_grad=False), one()],
    "transposed alike": lambda: [one().T, one().T],
    "one element": lambda: [torch.randn(()), torch.randn(())],
    "dtypes by parameter": lambda: [[one(), one().half()], [one(), one().half()]],
}
UNUSUAL: dict[str, Callable[[], Any]] = {
    "requires grad": lambda: [one(), one().requires_grad_()],
    "transposed differently": lambda: [torch.randn(4, 3).T, one()],
    "gaps": lambda: [torch.randn(3, 8)[:, ::2], torch.randn(3, 8)[:, ::2]],
    "columns with gaps": lambda: torch.randn(2, 9)[:, ::2],
    "negated view": lambda: [torch.randn(3, dtype=torch.complex64).conj().imag, torch.randn(3)],
    "negated element": lambda: [torch.randn(1, dtype=torch.complex64).conj().imag, torch.randn(1)],
    "zeros without memory": lambda: [one(), zero_tensor()],
    "subclass": lambda: [one(), one().as_subclass(Subclass)],
    "sparse": lambda: [one(), one().to_sparse()],
    "meta": lambda: [one(), one().to("meta")],
    "integers": lambda: [one().int(), one().int()],
    "another dtype": lambda: [one(), one().double()],
    "another shape": lambda: [one(), one().reshape(4, 3)],
    "None among tensors": lambda: [one(), None],
    "a list among tensors": lambda: [one(), [one()]],
    "ragged lists": lambda: [[one()], [one(), one()]],
    "no task": list,
    "no row": lambda: torch.randn(0, 4),
    "three axes": lambda: torch.randn(2, 3, 4),
    "a generator": lambda: (one() for _ in range(2)),
    "a number": lambda: 3,
}


@pytest.mark.parametrize("make", USUAL.values(), ids=USUAL.keys())
def test_usual_calls_are_read(make: Callable[[], Any]) -> None:
    grads = make()
    found = _C.read(grads, (), True, False)
    assert found is not None
    assert found.tasks == len(grads)


@pytest.mark.parametrize("make", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_unusual_calls_are_left_alone(make: Callable[[], Any]) -> None:
    assert _C.read(make(), (), True, False) is None


def test_grad_is_refused_only_where_asked() -> None:
    grads = [one(), one().requires_grad_()]
    assert _C.read(grads, (), False, False) is not None
    out = one().requires_grad_()
    assert _C.read([one(), one()], (out,), True, False) is not None
    assert _C.read([one(), one()], (out,), True, True) is None


@pytest.mark.parametrize("out", [torch.zeros(4, 3), torch.zeros(3, 4, dtype=torch.float64), torch.zeros(4, 3).T, None])
def test_unusual_targets_are_left_alone(out: Tensor | None) -> None:
    assert _C.read([one(), one()], (torch.zeros(3, 4),), True, True) is not None
    assert _C.read([one(), one()], (out,), True, True) is None


@pytest.mark.parametrize(
    "weights", [torch.ones(3), torch.ones(2, dtype=torch.float16), [1, 2], [1.0], "ab", torch.eye(2)]
)
def test_unusual_weights_are_left_alone(weights: Any) -> None:
    out = torch.full((3, 4), 7.0)
    operands = _C.read([one(), one()], (out,), True, True)
    assert operands is not None
    assert not _C.combine(operands, weights, False, 1)
    assert (out == 7).all()


CASES = {
    "matrix": lambda dtype: torch.randn(3, 40).to(dtype),
    "flat": lambda dtype: [g for (g,) in task_gradients([(33, 9)], 3, dtype)],
    "lists": lambda dtype: task_gradients([(5, 4), (0,), (), (300,)], 3, dtype),
    "with None": lambda dtype: with_none(task_gradients([(5, 4), (70,), (9,), (300,)], 3, dtype)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_both_ways_give_the_same_bits(make: Callable[[torch.dtype], Any], dtype: torch.dtype) -> None:
    grads = make(dtype)
    weights = torch.tensor([0.25, 0.5, -1.0], dtype=torch.float64)

    def results() -> list[Tensor]:
        sums = combine(grads, weights)
        like = [torch.ones_like(s) for s in (sums if isinstance(sums, list) else [sums]) if s is not None]
        out = [torch.ones_like(t) for t in like]
        params, means, squares, buffers = ([torch.ones_like(t) for t in like] for _ in range(4))
        present = grads
        if isinstance(sums, list):  # without parameters that no task touches
            present = [[g for g, s in zip(row, sums, strict=True) if s is not None] for row in grads]
        combine(present, weights, out=out if isinstance(sums, list) else out[0], accumulate=True)
        combine_sgd_(params, present, weights, lr=0.1, momentum=0.9, momentum_buffers=buffers)
        combine_adamw_(params, present, weights, exp_avgs=means, exp_avg_sqs=squares, step=2)
        return [gramian(grads), *like, *out, *params, *means, *squares, *buffers]

    usual = results()
    assert not _C.use_torch(int, int)  # as with a torch that does not publish the table
    try:
        assert _C.read(grads, (), True, False) is None
        careful = results()
    finally:
        assert _C.use_torch(Tensor, nn.Parameter)
    for a, b in zip(usual, careful, strict=True):
        assert torch.equal(a, b)


def test_written_tensors_know_that_they_changed() -> None:
    grads, weights = [one(), one()], [0.5, 0.5]
    out, param, buffer = one(), one(), one()
    before = [t._version for t in (out, param, buffer)]
    combine(grads, weights, out=out)
    combine_sgd_([param], grads, weights, lr=0.1, momentum=0.9, momentum_buffers=[buffer])
    assert [t._version for t in (out, param, buffer)] == [v + 1 for v in before]
