"""What every weighting with a name promises, on the hard Gramian set and on random Jacobians."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pcl import MEMORY, Weighting
from pcl.methods import WEIGHTINGS, WeightingOptions
from pcl_kernels import simplex_qp
from tests.kernels.hard_gramians import hard_set


@dataclass(frozen=True)
class Promise:
    """What a weighting promises whatever the gradients.

    Attributes:
        total: what the weights sum to: 1, "k", or None where the sum is free.
        convex: no weight is negative.
        agrees: no task's loss rises along d, to first order: "always", or where some direction suits all tasks
            ("unless stationary").
        length: p, where gradients c times as long have weights c^p times as large; None where that is not so.
        ordered: the weights do not depend on the order of the tasks, which they do for random draws.
    """

    total: float | str | None = None
    convex: bool = True
    agrees: Literal["always", "unless stationary", "no"] = "no"
    length: float | None = 0.0
    ordered: bool = True


PROMISES: dict[str, Promise] = {
    "sum": Promise("k"),
    "mean": Promise(1.0),
    "rlw": Promise(1.0, ordered=False),
    "rlw-dirichlet": Promise(1.0, ordered=False),
    "dwa": Promise("k"),
    "uncertainty": Promise(),
    "imtl-l": Promise(),
    "scale-invariant": Promise(),
    "famo": Promise(1.0),
    "famo-next-step": Promise(1.0),
    "amortised-mgda": Promise(1.0),
    "gradnorm": Promise("k"),
    "mgda": Promise(1.0, agrees="always"),
    "mgda-l2": Promise(1.0),
    "mgda-loss": Promise(1.0),
    "mgda-loss-plus": Promise(1.0),
    "imtl": Promise(convex=False),
    "config": Promise(convex=False),
    "krum": Promise(1.0),
    "fairgrad": Promise(agrees="unless stationary", length=-4 / 3),  # -2 alpha / (1 + alpha)
    "maxdo": Promise(1.0, agrees="always"),
    "sdmgrad": Promise(1.0),
    "pcgrad": Promise(ordered=False),
    "gradvac": Promise(ordered=False),
    "cagrad": Promise(),
    "cagrad-fast": Promise(ordered=False),
    "imtl-g": Promise(1.0, convex=False),
    "nash-mtl": Promise(agrees="unless stationary", length=-1.0),
    "upgrad": Promise(agrees="always"),
    "dualproj": Promise(agrees="always"),
    "aligned-mtl": Promise(convex=False),
    "graddrop": Promise(),  # this one and the next two work on gradients: tests/weighting/test_gradient_weightings.py
    "trimmed-mean": Promise(),
    "moco": Promise(convex=False),
    "emgd-gmc": Promise(agrees="always", length=None),  # the softmax of Eq. 9 sees the length
    "emgd-gs": Promise(agrees="always"),
    "emgd-gmc-code": Promise(length=None),
    "emgd-gs-code": Promise(),
    "gem": Promise(),
    "a-gem": Promise(),
    "halves": Promise(1.0),
    "mega-i": Promise(),
    "mega-ii": Promise(convex=False),
}
ON_GRAMIANS = [name for name in PROMISES if WEIGHTINGS[name].make(WeightingOptions()).needs != "gradients"]


def make(name: str) -> Any:
    return WEIGHTINGS[name].make(WeightingOptions())


def names(k: int) -> list[str]:
    """k tasks, of which the last is the memory where there are two or more."""
    return [f"t{i}" for i in range(k - 1)] + [MEMORY if k > 1 else "t0"]


def losses_of(k: int) -> Tensor:
    return 0.1 + torch.rand(k, dtype=torch.float64, generator=torch.Generator().manual_seed(k))


def weigh(weighting: Weighting, gram: Tensor) -> Tensor:
    return weighting(gram, losses_of(len(gram)), names(len(gram)))


@st.composite
def jacobians(draw: st.DrawFn) -> Tensor:
    """Up to eight gradients of any rank, norms over up to six decades, some doubled, some zero."""
    k = draw(st.integers(1, 8))
    rank, decades = draw(st.integers(1, k)), draw(st.floats(0, 6))
    draws = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    j = torch.randn(k, rank, dtype=torch.float64, generator=draws)
    j = j @ torch.randn(rank, k + 3, dtype=torch.float64, generator=draws)
    j = j * 10 ** (decades * (torch.rand(k, 1, dtype=torch.float64, generator=draws) - 0.5))
    for row in draw(st.lists(st.integers(0, k - 1), max_size=2)):
        j[row] = j[0]
    for row in draw(st.lists(st.integers(0, k - 1), max_size=2)):
        j[row] = 0.0
    return j


def stationary(gram: Tensor) -> bool:
    """Whether the shortest convex combination of the unit gradients is zero, up to rounding."""
    norms = gram.diagonal().sqrt()
    unit = gram / norms[:, None] / norms[None, :]
    if not unit.isfinite().all():
        return True
    w = simplex_qp(unit)
    return bool(w @ unit @ w < 1e-10)


def check(name: str, gram: Tensor) -> None:
    """The promises that hold for any Gramian."""
    k, promise = len(gram), PROMISES[name]
    weights = weigh(make(name), gram)
    assert weights.shape == (k,)
    assert weights.dtype == torch.float64
    assert weights.isfinite().all()
    if promise.convex:
        assert (weights >= 0).all()
    if promise.total is not None:
        assert weights.sum().item() == pytest.approx(k if promise.total == "k" else promise.total, rel=1e-9)
    if promise.agrees == "always" or (promise.agrees == "unless stationary" and not stationary(gram)):
        norms = gram.diagonal().sqrt()
        assert (gram @ weights >= -1e-9 * norms * (norms @ weights.abs())).all()


def test_every_weighting_says_what_it_promises() -> None:
    assert set(PROMISES) == set(WEIGHTINGS)


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("name", ON_GRAMIANS)
@given(j=jacobians())
def test_promises_on_random_jacobians(name: str, j: Tensor) -> None:
    check(name, j @ j.T)


@pytest.mark.parametrize("name", ON_GRAMIANS)
def test_promises_on_hard_gramians(name: str) -> None:
    for problem in hard_set(120, k_max=12, seed=5):
        check(name, problem.gram())


@pytest.mark.parametrize("name", ON_GRAMIANS)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_zero_gradients_give_finite_weights(name: str, k: int) -> None:
    weighting = make(name)
    for _ in range(2):
        assert weigh(weighting, torch.zeros(k, k, dtype=torch.float64)).isfinite().all()


def full_rank(k: int, seed: int) -> Tensor:
    """Gradients that share a direction, so that every method has an answer; norms over a decade."""
    draws = torch.Generator().manual_seed(seed)
    j = torch.randn(k, 30, dtype=torch.float64, generator=draws)
    j = j + torch.randn(30, dtype=torch.float64, generator=draws)
    return j * 10 ** torch.rand(k, 1, dtype=torch.float64, generator=draws)


@pytest.mark.parametrize("name", [name for name in ON_GRAMIANS if PROMISES[name].ordered])
@pytest.mark.parametrize("seed", range(5))
def test_weights_follow_their_tasks_into_any_order(name: str, seed: int) -> None:
    j, order = full_rank(6, seed), torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    gram, losses, tasks = j @ j.T, losses_of(6), names(6)
    weights = make(name)(gram, losses, tasks)
    moved = make(name)(gram[order][:, order], losses[order], [tasks[i] for i in order.tolist()])
    assert torch.allclose(moved, weights[order], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in ON_GRAMIANS if PROMISES[name].length is not None])
@pytest.mark.parametrize("c", [1e-3, 1e6])
def test_weights_for_longer_gradients(name: str, c: float) -> None:
    gram = full_rank(5, seed=1) @ full_rank(5, seed=1).T
    expected = c ** PROMISES[name].length * weigh(make(name), gram)
    assert torch.allclose(weigh(make(name), c * c * gram), expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_state_goes_round_while_tasks_come_and_go(name: str) -> None:
    """A weighting that takes over the state of another goes on to the same bits."""
    if name not in ON_GRAMIANS:
        pytest.skip("its state is tested where gradients are")
    first, second = make(name), make(name)
    tasks = [["a", "b"], ["a", "b", "c"], ["b", "c", MEMORY], ["c", MEMORY], ["b", "c", MEMORY]]

    def step(weighting: Any, i: int) -> Tensor:
        gram = full_rank(len(tasks[i]), i) @ full_rank(len(tasks[i]), i).T
        found: Tensor = weighting(gram, (1 + i) * losses_of(len(tasks[i])), tasks[i]).clone()
        if getattr(weighting, "looks_back", False):
            weighting.after_update(0.9 * losses_of(len(tasks[i])), tasks[i])
        return found

    for i in range(3):
        step(first, i)
    first.forget("a")
    second.load_state_dict(first.state_dict())
    for i in range(3, 5):
        assert torch.equal(step(first, i), step(second, i))
