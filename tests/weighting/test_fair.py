"""FairGrad and the preference of Nash-MTL: fair shares of the gains."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pcl import FairGrad, NashMTL
from tests.weighting.cases import NAMES, SIZES, gradients, weigh


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
def test_weights_solve_the_papers_system(alpha: float, k: int) -> None:
    g = gradients(k, seed=k)
    weights = weigh(FairGrad(alpha), g)
    assert torch.allclose(g @ (weights @ g), weights ** (-1 / alpha), rtol=1e-8)
    assert torch.allclose(weigh(FairGrad(alpha, scale="unit"), g), weights / weights.sum())


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_no_direction_of_its_length_is_fairer(alpha: float) -> None:
    """Random turns of d only lower the utility, sum_i q_i gain_i^(1 - alpha) / (1 - alpha)."""
    g = gradients(5, seed=1)
    preference = {"t0": 4.0, "t2": 0.5}
    q = 5 * torch.tensor([4.0, 1.0, 0.5, 1.0, 1.0], dtype=torch.float64) / 7.5
    d = weigh(FairGrad(alpha, preference=preference), g) @ g
    turns = torch.randn(2000, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    others = d + 0.02 * d.norm() / 30**0.5 * turns
    others = others * (d.norm() / others.norm(dim=1, keepdim=True))
    others = others[(others @ g.T > 0).all(dim=1)]
    assert len(others) > 100

    def utility(directions: Tensor) -> Tensor:
        return (q * (directions @ g.T) ** (1 - alpha) / (1 - alpha)).sum(dim=-1)

    assert (utility(others) < utility(d)).all()


def test_alpha_one_is_nash_mtl() -> None:
    g = gradients(5, seed=2)
    assert torch.equal(weigh(FairGrad(1.0), g), weigh(NashMTL(), g))


@pytest.mark.parametrize("k", SIZES)
def test_preferred_tasks_gain_in_proportion(k: int) -> None:
    g = gradients(k, seed=k)
    weights = weigh(NashMTL(preference={"t0": 3.0}), g)
    shares = weights * (g @ (weights @ g))
    expected = torch.ones(k, dtype=torch.float64)
    expected[0] = 3.0
    assert torch.allclose(shares, k * expected / expected.sum(), rtol=1e-9)


@pytest.mark.parametrize("make", [FairGrad, NashMTL])
def test_equal_preferences_change_nothing(make: Callable[..., FairGrad]) -> None:
    g = gradients(4, seed=3)
    assert torch.allclose(weigh(make(preference=dict.fromkeys(NAMES[:4], 7.0)), g), weigh(make(), g), rtol=1e-12)


def test_a_stationary_point_leaves_the_weights_as_they_were() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    assert torch.equal(weigh(FairGrad(), opposite), torch.tensor([0.5, 0.5], dtype=torch.float64))
    weighting = FairGrad()
    before = weigh(weighting, gradients(2, seed=0))
    assert torch.equal(weigh(weighting, opposite), before)
    assert torch.equal(weigh(weighting, torch.zeros(2, 3, dtype=torch.float64)), before)


def test_goes_on_from_its_state_and_solves_every_n_steps() -> None:
    weighting, resumed = FairGrad(update_every=3), FairGrad(update_every=3)
    first = weigh(weighting, gradients(3, seed=0))
    resumed.load_state_dict(weighting.state_dict())
    seen = []
    for seed in range(1, 6):
        seen.append(weigh(weighting, gradients(3, seed)))
        assert torch.equal(seen[-1], weigh(resumed, gradients(3, seed)))
    assert torch.equal(seen[1], first)
    assert torch.equal(seen[2], weigh(FairGrad(), gradients(3, seed=3)))
    weighting.forget("t0")
    assert set(weighting.state_dict()["weights"]) == {"t1", "t2"}


def test_a_task_that_ends_and_begins_anew_between_two_solutions_has_a_weight() -> None:
    weighting = FairGrad(update_every=10)
    weigh(weighting, gradients(2, seed=0))
    weighting.forget("t1")
    g = gradients(2, seed=1)
    assert torch.equal(weigh(weighting, g), weigh(FairGrad(), g))


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_solves_better_than_torchjd(alpha: float) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    g = gradients(5, seed=4)
    gram = g @ g.T

    def residual(weights: Tensor) -> float:
        return float((gram @ weights - weights ** (-1 / alpha)).abs().max() / gram.diagonal().max())

    assert residual(weigh(FairGrad(alpha), g)) <= residual(aggregation.FairGradWeighting(alpha)(gram)) + 1e-14


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="FairGrad alpha"):
        FairGrad(0.0)
    with pytest.raises(ValueError, match="FairGrad update_every"):
        FairGrad(update_every=0)
    with pytest.raises(ValueError, match="FairGrad scale"):
        FairGrad(scale="long")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NashMTL preference"):
        NashMTL(preference={"t0": 0.0})
