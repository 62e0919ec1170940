"""Scores are Eq. 5.5 up to O(epsilon); gains are what the loss falls by."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pcl import Budget, Firefly, WidthGraph
from pcl.models.growth.candidates import Candidates
from pcl.models.growth.choice import choose, gains, steps_taken
from pcl.models.growth.overgrown import OverGrown
from pcl.models.growth.scoring import scores
from tests.models.growth_nets import SMOOTH, made, squared_error


def brute_force(network: OverGrown, x: Tensor, points: int) -> dict[str, list[Tensor]]:
    """Eq. 5.5 as it is written: for every candidate and point of its own a pass through the network."""
    found: dict[str, list[Tensor]] = {}
    for name, c in network.candidates.groups.items():
        found[name] = []
        for epsilon in (c.epsilon, c.epsilon_new):
            end = epsilon.detach().clone()
            score = torch.zeros_like(end)
            for i in range(len(end)):
                for z in range(1, points + 1):
                    with torch.no_grad():
                        epsilon[i] = (2 * z - 1) / (2 * points) * end[i]
                    (gradient,) = torch.autograd.grad(squared_error(network, x), epsilon)
                    score[i] += gradient[i] / points
                with torch.no_grad():
                    epsilon[i] = end[i]
            found[name].append(score)
    return found


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", ["split", "copy"])
@pytest.mark.parametrize("name", SMOOTH)
def test_the_error_falls_with_epsilon(name: str, kind: str, fast: bool) -> None:
    net, x = made(name, samples=4)
    graph = WidthGraph(net, x)
    mirror = {n: torch.ones(graph.groups[n].width) for n in graph.growable()} if kind == "copy" else None
    errors = []
    for step in (1e-1, 1e-2, 1e-3):
        network = OverGrown(graph, Candidates(graph, new=2, mirror=mirror, step=step), fast=fast)
        found, expected = scores(network, [x], squared_error, points=3), brute_force(network, x, 3)
        pairs = [(a, b) for n in found for a, b in zip(found[n], expected[n], strict=True)]
        errors.append(max(float((a - b).norm() / b.norm()) for a, b in pairs))
    assert errors[0] < 0.5
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 5


def test_masked_passes_and_batches_add_up() -> None:
    """An objective may call the network several times; scores are means over batches."""
    net, x = made("smooth", samples=6)
    graph = WidthGraph(net, x)
    network = OverGrown(graph, Candidates(graph, new=2))
    halves = list(x.split(3))
    together = scores(network, [halves], lambda f, b: (f(b[0]).square().sum() + f(b[1]).square().sum()) / 2)
    apart = scores(network, halves, lambda f, b: f(b).square().sum())
    for name in together:
        for a, b in zip(together[name], apart[name], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
    mask = {"4": torch.tensor([1.0, 0, 1, 1, 0])}
    masked = scores(network, [x], lambda f, b: f(b, masks=mask).square().sum())
    assert (masked["4"][0][[1, 4]] == 0).all()
    assert (masked["4"][0][[0, 2, 3]] != 0).all()


def curved() -> tuple[nn.Module, Tensor, Tensor]:
    """Two neurons tanh(theta x) with theta = 0.5, and targets that ask the first to be a mixture of two, the second
    the opposite: one split lowers the loss, the other raises it."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False)).double()
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    pairs = torch.stack([torch.cat([x, 0 * x]), torch.cat([0 * x, x])], dim=1)
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2) / 2)
        net[2].weight.copy_(torch.eye(2))
        t = torch.tanh(pairs / 2)
        bend = torch.tanh(0.8 * pairs) / 2 + torch.tanh(0.2 * pairs) / 2 - t
    return net.eval(), pairs, t + bend * torch.tensor([1.0, -1.0])


def test_a_split_that_raises_the_loss_is_not_taken() -> None:
    """Eq. 5.6 read literally would take it for its |s|, with the other sign, which makes the same two halves."""
    net, x, y = curved()

    def objective(f: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (f(batch[0]) - batch[1]).square().mean()

    graph = WidthGraph(net, x)
    candidates = Candidates(graph, groups=["0"], new=0, step=0.1)
    c = candidates.groups["0"]
    with torch.no_grad():
        c.delta["0"][0].copy_(torch.eye(2))
    network = OverGrown(graph, candidates)
    found = scores(network, [(x, y)], objective)  # type: ignore[arg-type]
    score, new = found["0"]
    assert score[0] < 0 < score[1]
    gain = gains(c, score, new, 0.1)
    assert gain[0] > 0
    assert gain[1] == 0
    chosen = choose(graph, candidates, {"0": gain}, Budget(neurons=2))
    assert chosen["0"].tolist() == [True, False]

    def loss(steps: Tensor) -> float:
        with torch.no_grad():
            c.epsilon.copy_(steps)
            return float(objective(network, (x, y)))  # type: ignore[arg-type]

    before = loss(torch.zeros(2))
    literal = -0.1 * score.sign()  # of both, as |s| of both is above 0
    for sign in (1, -1):
        assert loss(torch.tensor([0.0, sign * float(literal[1])])) > before
    with torch.no_grad():
        c.epsilon.fill_(0.1)
        ours = steps_taken(c, score, new, 0.1)[0] * chosen["0"]
    fall = before - loss(ours)
    assert fall == pytest.approx(float(gain[0]), rel=0.1)  # the expansion's error is of the order of the step


def test_gains_are_what_the_loss_falls_by() -> None:
    """For a small step, each candidate by itself."""
    net, x = made("layer_normed")
    graph = WidthGraph(net, x)
    step = 1e-3
    candidates = Candidates(graph, new=2, step=step)
    network = OverGrown(graph, candidates)
    found = scores(network, [x], squared_error)
    ends = {n: steps_taken(c, *found[n], step) for n, c in candidates.groups.items()}
    gain = {n: gains(c, *found[n], step) for n, c in candidates.groups.items()}
    with torch.no_grad():
        for c in candidates.groups.values():
            c.epsilon.zero_(), c.epsilon_new.zero_()
        before = squared_error(network, x)
        for name, c in candidates.groups.items():
            for i in gain[name].nonzero()[:, 0].tolist():
                m = c.group.width
                epsilon, end, j = (c.epsilon, ends[name][0], i) if i < m else (c.epsilon_new, ends[name][1], i - m)
                epsilon[j] = end[j]
                fall = before - squared_error(network, x)
                epsilon[j] = 0
                # others at 0 and not at epsilon: a relative change of the order of the step
                assert float(fall) == pytest.approx(float(gain[name][i]), rel=0.1)


def test_the_penalty_acts() -> None:
    """Directions want to be long; with the penalty in the loss that is differentiated they stay shorter."""
    net, x = made("smooth")
    lengths = []
    for penalty in (0.0, 10.0):
        graph = WidthGraph(net, x)
        candidates = Candidates(graph, new=2)
        candidates.project = lambda: None  # type: ignore[method-assign]
        Firefly(steps=60, lr=0.1, penalty=penalty)._train(OverGrown(graph, candidates), [x], squared_error)
        lengths.append(max(float(c.lengths().detach().max()) for c in candidates.groups.values()))
        steps = max(float(c.steps().detach().abs().max()) for c in candidates.groups.values())
        lengths.append(steps)
    assert lengths[2] < lengths[0] / 2
    assert lengths[3] < lengths[1] / 2


def test_projecting_keeps_the_constraints() -> None:
    net, x = made("images")
    candidates = Candidates(WidthGraph(net, x), new=2)
    with torch.no_grad():
        for t in candidates.trained():
            t.mul_(30)
    assert candidates.penalty() > 1
    candidates.project()
    assert float(candidates.penalty().detach()) == pytest.approx(0, abs=1e-20)
