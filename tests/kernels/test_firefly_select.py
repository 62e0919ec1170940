"""The selection of candidates against its definition and the reference, on every backend."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import pcl_kernels
from pcl_kernels import _C, firefly_select
from pcl_kernels.firefly_select import device as device_form
from pcl_kernels.firefly_select import op, reference


@pytest.fixture(params=[*_C.isas(), "device form on the CPU", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param in _C.isas():
        _C.use_isa(request.param)
    elif request.param != "cuda":
        monkeypatch.setattr(op, "_cpu", device_form.firefly_select)
    yield "cuda" if request.param == "cuda" else "cpu"
    _C.use_isa(_C.isas()[-1])


def problem(seed: int, n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Gains with ties, zeros, negative ones, NaN and infinity; costs with 0; layers; budgets tight and loose."""
    draws = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, size: int = n) -> Tensor:
        return torch.randint(low, high, (size,), generator=draws)

    gain = integers(-2, 6).to(dtype)
    for value, rare in ((math.nan, 7), (math.inf, 11), (-math.inf, 13)):
        gain[integers(0, rare) == 0] = value
    cost, layer = integers(0, 5), integers(-2, 4) * 1_000_003
    limits = [[None, 0, 1, n // 2, n], [None, 0, 1, 2, 9], [None, 0.0, 3.5, 2.0 * n, math.inf], [0, 1, 2, 3]]
    chosen = [values[int(integers(0, len(values), 1))] for values in limits]
    return gain, cost, layer, dict(zip(("neurons", "layers", "budget", "least"), chosen, strict=True))


def by_definition(
    gain: Tensor, cost: Tensor, layer: Tensor, neurons: Any, layers: Any, budget: Any, least: int
) -> Tensor:
    """Every candidate judged by itself, from the sets that stand before it."""
    n = len(gain)
    neurons, layers, budget = (math.inf if x is None else x for x in (neurons, layers, budget))

    def before(i: int, j: int) -> bool:
        return bool(gain[i] > gain[j] or (gain[i] == gain[j] and i < j))

    worth = [i for i in range(n) if gain[i] > 0]
    best = {int(g): min((i for i in worth if layer[i] == g), key=lambda i: sum(before(j, i) for j in worth))
            for g in {int(layer[i]) for i in worth if layer[i] >= 0}}  # fmt: skip
    usable = {g for g, i in best.items() if sum(before(j, i) for j in best.values()) < layers}
    allowed = [i for i in worth if layer[i] < 0 or int(layer[i]) in usable]

    def fits(i: int) -> bool:
        ahead = [j for j in allowed if before(j, i)]
        return len(ahead) < neurons and sum(int(cost[j]) for j in [*ahead, i]) <= budget

    taken = [i for i in allowed if all(fits(j) for j in allowed if j == i or before(j, i))]
    kept = [i for i in taken if layer[i] < 0 or sum(bool(layer[j] == layer[i]) for j in taken) >= least]
    return torch.tensor([i in kept for i in range(n)], dtype=torch.bool)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_backend_is_the_definition(dtype: torch.dtype, device: str) -> None:
    for seed in range(60):
        gain, cost, layer, limits = problem(seed, (0, 1, 2, 9, 14)[seed % 5], dtype)
        expected = by_definition(gain, cost, layer, **limits)
        assert torch.equal(reference.firefly_select(gain, cost, layer, **limits), expected), (seed, limits)
        found = firefly_select(*(t.to(device) for t in (gain, cost, layer)), **limits)
        assert found.dtype == torch.bool
        assert torch.equal(found.cpu(), expected), (seed, limits)


def test_many_candidates_and_absent_arguments(device: str) -> None:
    gain, cost, layer, _ = problem(3, 700)
    for some, number, limits in (
        (cost, layer, {"neurons": 200, "layers": 2, "budget": 500, "least": 90}),
        (cost.int(), None, {"budget": 333}),
        (None, layer.int(), {"layers": 1}),
        (None, None, {"neurons": 50}),
        (None, None, {}),
    ):
        given = [None if t is None else t.to(device) for t in (gain, some, number)]
        assert torch.equal(
            firefly_select(*given, **limits).cpu(), reference.firefly_select(gain, some, number, **limits)
        )
    strided = torch.stack([gain, -gain], 1).to(device)[:, 0]
    assert not strided.is_contiguous()
    assert torch.equal(firefly_select(strided, neurons=9).cpu(), reference.firefly_select(gain, neurons=9))


def test_a_budget_of_neurons_gives_the_largest_sum_of_gains(device: str) -> None:
    """Eq. 5.6: no other set of as many lowers the loss more, to first order."""
    gain = torch.randn(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for neurons in range(10):
        sets = itertools.chain.from_iterable(itertools.combinations(range(9), k) for k in range(neurons + 1))
        best = max(float(gain[list(s)].sum()) for s in sets)
        assert float(gain[firefly_select(gain.to(device), neurons=neurons).cpu()].sum()) == pytest.approx(best)


def test_the_walk_ends_at_the_first_that_does_not_fit(device: str) -> None:
    gain = torch.tensor([4.0, 3.0, 2.0, 1.0], device=device)
    cost = torch.tensor([2, 5, 1, 1], device=device)
    assert firefly_select(gain, cost, budget=6).tolist() == [True, False, False, False]
    assert firefly_select(gain, cost, budget=8).tolist() == [True, True, True, False]
    assert firefly_select(gain, -cost, budget=8).tolist() == [False] * 4
    layer = torch.tensor([0, 1, -1, 0], device=device)  # what may not be used anyway ends nothing
    assert firefly_select(gain, cost, layer, budget=4, layers=1).tolist() == [True, False, True, True]


def test_a_layer_that_stays_too_small_loses_its_neurons(device: str) -> None:
    gain = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0], device=device)
    layer = torch.tensor([7, -1, 9, 9, 7], device=device)
    assert firefly_select(gain, None, layer, neurons=4, least=2).tolist() == [False, True, True, True, False]
    assert firefly_select(gain, None, layer, neurons=5, least=2).tolist() == [True] * 5
    assert firefly_select(gain, None, layer, neurons=5, least=3).tolist() == [False, True, False, False, False]


def test_equal_gains_go_by_index(device: str) -> None:
    chosen = firefly_select(torch.ones(5000, device=device), neurons=1234)
    assert chosen[:1234].all()
    assert not chosen[1234:].any()


def test_torch_accepts_the_op() -> None:
    gain, cost, layer, _ = problem(1, 8)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.pcl.firefly_select.default, (gain, cost, layer, 3, 1, 9, 2), test_utils=tests)
    traced = torch.compile(lambda g: firefly_select(g, neurons=2) & (g < 5), backend="eager", fullgraph=True)
    assert torch.equal(traced(gain), firefly_select(gain, neurons=2) & (gain < 5))
    assert not firefly_select(gain.requires_grad_(), neurons=2).requires_grad
    assert "firefly_select" in pcl_kernels.__all__


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda g: firefly_select(g.long()), TypeError, r"gain: expected a floating-point tensor, got torch\.int64"),
        (lambda g: firefly_select([1.0]), TypeError, "gain: .* got list"),
        (lambda g: firefly_select(g[None]), ValueError, r"gain: expected shape \(N,\), got \(1, 3\)"),
        (lambda g: firefly_select(g, g, budget=1), TypeError, "cost: expected an int64 or int32 tensor"),
        (lambda g: firefly_select(g, None, g.long()[:2]), ValueError, r"layer: expected shape \(3,\) on cpu"),
        (lambda g: firefly_select(g, budget=3), ValueError, "budget: 3 of what"),
        (lambda g: firefly_select(g, neurons=-1), ValueError, "neurons: expected a number from 0 on, got -1"),
        (lambda g: firefly_select(g, g.long(), budget=math.nan), ValueError, "budget: expected a number"),
        (lambda g: firefly_select(g, layers=-2), ValueError, "layers"),
        (lambda g: firefly_select(g, least=-1), ValueError, "least"),
    ],
)
def test_errors_name_the_argument(call: Callable[[Tensor], object], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        call(torch.ones(3))
