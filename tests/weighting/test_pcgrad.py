"""PCGrad: the projections of its paper, by hand and beside torchjd; its draws."""

import pytest
import torch

from pcl import PCGrad
from tests.weighting.cases import conflicting, weigh


def test_two_opposed_tasks_by_hand() -> None:
    g = torch.tensor([[1.0, 0.0], [-2.0, 2.0]], dtype=torch.float64)
    # (1, 0) loses its part against (-2, 2) and becomes (1/2, 1/2); (-2, 2) becomes (0, 2)
    assert torch.allclose(weigh(PCGrad(), g) @ g, torch.tensor([0.5, 2.5], dtype=torch.float64))
    weights = weigh(PCGrad(scale="unit"), g)
    assert weights.sum() == pytest.approx(1)
    assert torch.allclose(weights * 4.25, weigh(PCGrad(), g))


def test_agreeing_gradients_are_summed() -> None:
    g = conflicting(5, seed=1).abs()
    assert torch.equal(weigh(PCGrad(), g), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(20))
def test_two_tasks_never_conflict(seed: int) -> None:
    g = conflicting(2, seed)
    assert (g @ (weigh(PCGrad(), g) @ g) >= -1e-12 * g.norm() ** 2).all()


def test_the_average_of_many_orders_is_the_average_of_many_steps() -> None:
    g = conflicting(6, seed=0)
    single = PCGrad(seed=1)
    steps = torch.stack([weigh(single, g) for _ in range(2000)])
    error = (steps.var(dim=0) * (1 / 2000 + 1 / 2000)).sqrt()
    assert error.max() > 0  # the orders matter here
    averaged = weigh(PCGrad(orders=2000, seed=2), g)
    assert ((averaged - steps.mean(dim=0)).abs() <= 5 * error + 1e-12).all()


def test_draws_repeat_with_the_seed_and_go_on_from_the_state() -> None:
    g = conflicting(8, seed=3)
    first, same, other = PCGrad(seed=4), PCGrad(seed=4), PCGrad(seed=5)
    started = [weigh(first, g) for _ in range(3)]
    assert all(torch.equal(weights, weigh(same, g)) for weights in started)
    assert any(not torch.equal(weights, weigh(other, g)) for weights in started)
    assert not torch.equal(started[0], started[1])
    other.load_state_dict(first.state_dict())
    for _ in range(3):
        assert torch.equal(weigh(first, g), weigh(other, g))


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_torchjd_gives_the_same_for_the_same_orders(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    g = conflicting(k, seed=k)
    torch.manual_seed(k)
    orders = torch.stack([torch.randperm(k) for _ in range(k)])  # as that library draws them
    torch.manual_seed(k)
    expected = aggregation.PCGradWeighting()(g @ g.T)
    monkeypatch.setattr("pcl.weighting.pcgrad.random_orders", lambda *_: orders)
    assert torch.allclose(weigh(PCGrad(), g) @ g, expected @ g, rtol=1e-10, atol=1e-10 * g.norm().item())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="orders: expected at least 1, got 0"):
        PCGrad(orders=0)
    with pytest.raises(ValueError, match="'paper' or 'unit'"):
        PCGrad(scale="long")  # type: ignore[arg-type]
