"""GradVac: the turning of its paper, beside torchjd; its targets by pair of tasks."""

import pytest
import torch

from pcl import GradVac, PCGrad
from pcl.weighting.pair_state import PairState
from tests.weighting.cases import gradients, weigh

CPU = torch.device("cpu")


def test_two_tasks_reach_their_target_and_move_it() -> None:
    weighting = GradVac(beta=0.5)
    g = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)  # 45 degrees
    assert weigh(weighting, g).tolist() == [1.0, 1.0]
    targets = weighting.state_dict()["targets"]["pairs"]
    assert targets[0, 1] == targets[1, 0] == pytest.approx(0.5 * 0.5**0.5)
    h = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    d = weigh(weighting, h) @ h
    added = weighting.state_dict()["targets"]["pairs"]
    assert torch.allclose(added, 0.5 * targets)  # the cosine found was 0
    # h_0' = (1, c) with c / sqrt(1 + c^2) at the target, and h_1' = (c, 1)
    c = float(targets[0, 1] / (1 - targets[0, 1] ** 2).sqrt())
    assert torch.allclose(d, torch.full((2,), 1 + c, dtype=torch.float64))


def test_the_first_step_is_that_of_pcgrad(monkeypatch: pytest.MonkeyPatch) -> None:
    g = gradients(6, seed=0)[:, :3]
    orders = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(i)) for i in range(6)])
    for module in ("pcgrad", "gradvac"):
        monkeypatch.setattr(f"pcl.weighting.{module}.random_orders", lambda *_: orders)
    assert torch.allclose(weigh(GradVac(beta=0.0), g), weigh(PCGrad(), g))
    assert torch.allclose(weigh(GradVac(beta=0.0, scale="unit"), g), weigh(PCGrad(scale="unit"), g))


@pytest.mark.parametrize("k", [2, 5, 20])
def test_torchjd_gives_the_same_for_the_same_orders(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    ours, theirs = GradVac(beta=0.1), aggregation.GradVac(beta=0.1, eps=0.0)
    for step in range(10):
        g = gradients(k, step)
        torch.manual_seed(step)
        others = [[j for j in range(k) if j != i] for i in range(k)]
        orders = torch.tensor([[others[i][n] for n in torch.randperm(k - 1)] for i in range(k)])
        torch.manual_seed(step)
        expected = theirs.gramian_weighting(g @ g.T)
        monkeypatch.setattr("pcl.weighting.gradvac.random_orders", lambda *_, orders=orders: orders)
        assert torch.allclose(weigh(ours, g), expected, rtol=1e-9)


def test_targets_are_kept_by_the_names_of_both_tasks() -> None:
    weighting = GradVac(beta=0.5)
    weigh(weighting, gradients(3, seed=0), ["a", "b", "c"])
    before = weighting.state_dict()["targets"]
    weigh(weighting, gradients(2, seed=1), ["d", "b"])  # a and c rest, d arrives
    after = weighting.state_dict()["targets"]
    assert after["tasks"] == ["a", "b", "c", "d"]
    assert torch.equal(after["pairs"][:3, :3], before["pairs"])
    assert after["pairs"][1, 3] != 0
    assert after["pairs"][3, 1] != 0
    assert after["pairs"][0, 3] == after["pairs"][3, 2] == 0
    weighting.forget("b")
    weighting.forget("never seen")
    left = weighting.state_dict()["targets"]
    assert left["tasks"] == ["a", "c", "d"]
    assert torch.equal(left["pairs"][:2, :2], before["pairs"][[0, 2]][:, [0, 2]])
    assert not left["pairs"][2].any()


def test_the_order_of_the_names_does_not_matter_to_their_pairs() -> None:
    state = PairState()
    state.pairs(["a", "b"], CPU).copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert state.pairs(["b", "a"], CPU).tolist() == [[4.0, 3.0], [2.0, 1.0]]
    state.pairs(["b"], CPU).fill_(5)
    assert state.pairs(["c", "a", "b"], CPU).tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 5.0]]
    saved = state.state_dict()
    state.pairs(["a"], CPU).fill_(9)
    assert saved["pairs"].max() == 5


def test_a_refused_step_leaves_the_targets_as_they_were() -> None:
    weighting = GradVac(beta=0.5)
    weigh(weighting, gradients(3, seed=0))
    before = weighting.state_dict()["targets"]["pairs"]
    with pytest.raises(ValueError, match="finite"):
        weigh(weighting, gradients(3, seed=1) * torch.nan)
    assert torch.equal(weighting.state_dict()["targets"]["pairs"], before)


def test_goes_on_from_its_state() -> None:
    weighting, resumed = GradVac(beta=0.3, seed=1), GradVac(beta=0.3, seed=2)
    for seed in range(3):
        weigh(weighting, gradients(5, seed))
    resumed.load_state_dict(weighting.state_dict())
    for seed in range(3, 6):
        g = gradients(5, seed)
        assert torch.equal(weigh(weighting, g), weigh(resumed, g))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="beta: expected a number from 0 to 1, got 2"):
        GradVac(beta=2)
    with pytest.raises(ValueError, match="'paper' or 'unit'"):
        GradVac(scale="long")  # type: ignore[arg-type]
