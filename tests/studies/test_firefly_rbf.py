"""The study of growing RBF networks: training and the baselines against brute force, and the study in miniature."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from studies import firefly_rbf as study
from studies.firefly_rbf import METHODS, NEW, WIDEST, Run
from studies.rbf_growth import (
    LibraryFirefly,
    RandomSearch,
    first_networks,
    split,
    splitting_matrices,
    steepest_split,
    with_new,
)
from studies.rbf_networks import NEURONS, POINTS, RBF, SPREADS, Targets, draw_targets, losses, train
from studies.rbf_report import Curves, report
from studies.runs import complete, key_of


def some(width: int, seed: int = 0) -> RBF:
    draws = torch.Generator().manual_seed(seed)
    return RBF(torch.randn(width, 2, generator=draws), torch.randn(width, generator=draws))


def loss(theta: Tensor, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error, point by point as Eq. 5.11 has it."""
    return (torch.exp(-0.5 * (x[:, None] * theta[:, 0] + theta[:, 1]) ** 2) @ w - y).square().mean()


def test_targets_have_the_spread_that_is_meant() -> None:
    draws = [torch.Generator().manual_seed(seed) for seed in range(2)]
    assert {name: round(value**2) for name, value in SPREADS.items()} == {"variance": 3, "deviation": 9}
    targets, again = draw_targets([0, 1], "variance"), draw_targets([1], "variance")
    assert targets.x.shape == targets.y.shape == (2, POINTS)
    assert torch.equal(targets.y[1:], again.y)
    assert targets.x.abs().max() <= 5
    assert targets.x.std(dim=1) == pytest.approx([10 / math.sqrt(12)] * 2, rel=0.05)
    many = draw_targets(range(300), "variance")
    peak = many.y.square().mean()  # E[w^2] sum of E[h^2] and no cross terms, as weights are independent
    t = math.sqrt(3) * torch.randn(2, 200_000, generator=draws[0]).double()
    x = 10 * torch.rand(200_000, generator=draws[1]).double() - 5
    expected = 3 * NEURONS * torch.exp(-((t[0] * x + t[1]) ** 2)).mean()
    assert peak.item() == pytest.approx(expected.item(), rel=0.15)


def test_networks_of_all_widths_train_as_each_alone_by_autograd() -> None:
    targets = draw_targets(range(3), "variance")
    together, alone = ([some(width, seed) for seed, width in enumerate((1, 4, 2))] for _ in range(2))
    train(together, targets, 30, 0.01)
    for i, network in enumerate(alone):
        network.double()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        x, y = targets.x[i, :, None].double(), targets.y[i, :, None].double()
        for _ in range(30):
            optimizer.zero_grad()
            (network(x) - y).square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(together[i].theta.double(), network.theta, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together[i].w.double(), network.w, rtol=1e-4, atol=1e-5)
        assert losses(together, targets)[i].item() == pytest.approx((network(x) - y).square().mean().item(), rel=1e-4)


def test_splitting_matrices_are_the_second_derivatives_of_a_split() -> None:
    """Of the loss over the offset of both halves of one neuron, by automatic differentiation of its definition."""
    network, targets = some(3), draw_targets([0], "variance")
    x, y = targets.x[0].double(), targets.y[0].double()
    theta, w = network.theta.double(), network.w.double()
    found = splitting_matrices(network, targets.x[0], targets.y[0])
    for i in range(3):

        def split_loss(offset: Tensor, i: int = i) -> Tensor:
            rows = torch.cat([theta[:i], theta[i + 1 :], (theta[i] + offset)[None], (theta[i] - offset)[None]])
            return loss(rows, torch.cat([w[:i], w[i + 1 :], w[i].repeat(2) / 2]), x, y)

        expected = torch.autograd.functional.hessian(split_loss, torch.zeros(2).double())
        torch.testing.assert_close(found[i], expected)


def test_the_steepest_split_is_the_best_of_all_directions() -> None:
    network, targets = some(4, seed=3), draw_targets([0], "variance")
    train([network], targets, 500, 0.01)
    x, y = targets.x[0].double(), targets.y[0].double()
    step, found = 1e-3, {}
    angles = torch.linspace(0, math.pi, 721).double()[:-1]
    for i, angle in itertools.product(range(4), angles):
        offset = step * torch.stack([angle.cos(), angle.sin()])
        theta, w = network.theta.double(), network.w.double()
        rows = torch.cat([theta[:i], theta[i + 1 :], (theta[i] + offset)[None], (theta[i] - offset)[None]])
        halves = torch.cat([w[:i], w[i + 1 :], w[i].repeat(2) / 2])
        found[i, angle.item()] = (loss(rows, halves, x, y) - loss(theta, w, x, y)).item()
    neuron, angle = min(found, key=lambda key: found[key])
    (grown,) = steepest_split([network], targets, torch.Generator())
    assert found[neuron, angle] < 0
    offset = (grown.theta[neuron] - network.theta[neuron]).double()
    assert offset.norm().item() == pytest.approx(0.1, rel=1e-4)
    turned = math.atan2(offset[1].item(), offset[0].item()) % math.pi
    assert min(abs(turned - angle), math.pi - abs(turned - angle)) < 0.01
    torch.testing.assert_close(grown.theta[-1] + grown.theta[neuron], 2 * network.theta[neuron])
    assert torch.equal(grown.w[[neuron, -1]], network.w[neuron].repeat(2) / 2)


def test_a_network_that_no_split_improves_stays_as_it_is() -> None:
    theta, w = torch.tensor([[1.0, 0.5]]), torch.tensor([2.0])
    x = torch.linspace(-5, 5, 100)[None]
    network = RBF(theta, w)
    far = network(x.mT).detach().mT
    bump = torch.exp(-0.5 * (x + 0.5) ** 2)
    # an error with the curvature of the neuron along every direction
    (kept,) = steepest_split([network], Targets(x, far - 5 * (bump * ((x + 0.5) ** 2 - 1))), torch.Generator())
    assert len(kept.w) == 1
    (grown,) = steepest_split([network], Targets(x, far + 5 * (bump * ((x + 0.5) ** 2 - 1))), torch.Generator())
    assert len(grown.w) == 2


@pytest.mark.parametrize("new", [0, 5])
def test_random_search_takes_the_best_of_its_trials(new: int) -> None:
    targets = draw_targets(range(2), "variance")
    networks = first_networks(range(2), 3)
    draws = torch.Generator().manual_seed(0)
    before = [network.theta for network in networks]
    grown = RandomSearch(new, 20, 0.01)(networks, targets, draws)
    assert [len(network.w) for network in grown] == [4, 4]
    assert all(torch.equal(network.theta, theta) for network, theta in zip(networks, before, strict=True))
    search, again = RandomSearch(new, 20, 0.01), torch.Generator().manual_seed(0)
    trials = []
    for _ in range(3):
        one = [search._grown(network, again) for network in networks]
        train(one, targets, 20, 0.01)
        trials.append(losses(one, targets))
    assert torch.equal(losses(grown, targets), torch.stack(trials).min(dim=0).values)


def test_random_splits_leave_the_function_almost_and_new_neurons_add_theirs() -> None:
    network, x = some(3).double(), torch.linspace(-5, 5, 50)[:, None].double()
    halves = split(network, 1, torch.tensor([0.6, 0.8]), step=1e-3)
    assert 0 < (halves(x) - network(x)).abs().max() < 1e-4
    drawn = torch.tensor([1.0, 2.0, -0.5]).double()
    added = torch.exp(-0.5 * (x + 2) ** 2) * -0.5
    torch.testing.assert_close(with_new(network, drawn)(x), network(x) + added)


def made_up(level: float, targets: int = 4) -> Curves:
    return Curves(
        [[(level + 0.1 * i) / width for width in range(1, WIDEST + 1)] for i in range(targets)],
        [list(range(1, WIDEST + 1))] * targets,
    )


def test_the_report_compares_in_pairs() -> None:
    shown = report({"Firefly": made_up(1), "other": made_up(2), "same": made_up(1)}, "Title").splitlines()
    assert shown[4] == "| Firefly | 0.57 | 0.29 | 0.19 | 0.14 | 0.096 | 0.095 |  |  |  |  | 12.0 |"
    assert shown[5].count("| 4 of 4 |") == 2
    assert "| 0 of 4 | 1 | 0 of 4 | 1 |" in shown[6]


def test_runs_are_made_once_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "AT_ONCE", 2)
    monkeypatch.setattr(study, "CANDIDATE_STEPS", 2)
    kinds: Sequence[Run] = [run for run in study.runs(4, 5, "variance") if run.method != "firefly"]
    assert len(kinds) == 2 * 5
    done = complete(kinds[:2], tmp_path / "runs.jsonl", study.measure, 1)
    done |= complete(kinds, tmp_path / "runs.jsonl", study.measure, 1)
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 10
    found = done[key_of(kinds[1])]
    assert [len(curve) for curve in found["losses"]] == [WIDEST] * 2
    text = study.write(tmp_path)
    assert "Scratch" in text
    assert (tmp_path / "variance-5.png").stat().st_size > 10_000


def test_both_figures_share_their_runs() -> None:
    kinds = {(run.method, run.new) for run in study.runs(20, 10, "variance")}
    assert kinds == {*METHODS.values(), *NEW.values()}
    assert METHODS["Firefly"] == NEW["m' = 5"]
    assert METHODS["Firefly (split)"] == NEW["m' = 0"]


def test_the_library_s_own_firefly_gains_a_neuron_and_changes_little() -> None:
    targets, networks = draw_targets(range(2), "variance"), first_networks(range(2), 2)
    train(networks, targets, 200, 0.01)
    before = losses(networks, targets)
    grown = LibraryFirefly(5, 100)(networks, targets, torch.Generator().manual_seed(0))
    assert [len(network.w) for network in grown] == [3, 3]
    after = losses(grown, targets)
    assert (after < before).all()
    assert (after > before / 2).all()
