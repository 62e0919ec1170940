"""Bayesian gradient descent: its equations, steps that fail, and whole runs."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_cases import everything, same, stream, trainer

from pcl import BGD, MLP, SI, ClassMemory, ContinualModel, Mean, Sum, Trainer
from pcl.config import RunConfig
from pcl.memory.edit import Stateless
from pcl.run import build
from pcl.training.guard import Later


def step_plainly(
    p: list[Tensor], std: list[Tensor], gradient: Any, optimizer: BGD
) -> tuple[list[Tensor], list[Tensor]]:
    """Algorithm 1, number by number, with the draws that the optimizer will make."""
    draws = torch.Generator()
    draws.set_state(optimizer.state_dict()["draws"])
    group = optimizer.param_groups[0]
    sums = [(torch.zeros_like(part), torch.zeros_like(part)) for part in p]
    for _ in range(group["draws"]):
        noise = [torch.empty_like(part).normal_(generator=draws) for part in p]
        found = gradient([mu + sigma * eps for mu, sigma, eps in zip(p, std, noise, strict=True)])
        for (g_sum, ge_sum), g, eps in zip(sums, found, noise, strict=True):
            g_sum += group["samples"] * g / group["draws"]
            ge_sum += group["samples"] * g * eps / group["draws"]
    moved, narrowed = [], []
    for mu, sigma, (g, ge) in zip(p, std, sums, strict=True):
        moved.append(mu - group["lr"] * sigma**2 * g)
        a = 0.5 * sigma * ge
        narrowed.append(sigma * ((1 + a**2).sqrt() - a))
    return moved, narrowed


def test_steps_follow_the_equations() -> None:
    """Of a regression with two parameter tensors, several steps in a row."""
    draws = torch.Generator().manual_seed(0)
    x, y = (torch.randn(20, n, dtype=torch.float64, generator=draws) for n in (3, 1))
    w, b = nn.Parameter(torch.randn(3, 1, dtype=torch.float64, generator=draws)), nn.Parameter(torch.zeros(1).double())
    optimizer = BGD([w, b], lr=0.7, std=0.1, draws=4, samples=20, seed=3)

    def gradient(theta: list[Tensor]) -> list[Tensor]:
        error = x @ theta[0] + theta[1] - y
        return [x.T @ error / 20, error.mean(dim=0)]

    for _ in range(3):
        std = [optimizer.state[p]["std"].clone() for p in (w, b)]
        moved, narrowed = step_plainly([w.detach().clone(), b.detach().clone()], std, gradient, optimizer)
        with optimizer.sampling():
            for _ in range(optimizer.draws):
                optimizer.draw()
                optimizer.zero_grad()
                (0.5 * (x @ w + b - y).square().mean()).backward()
                optimizer.step()
        for p, mean, sigma in zip((w, b), moved, narrowed, strict=True):
            assert torch.allclose(p.detach(), mean, rtol=1e-12)
            assert torch.allclose(optimizer.state[p]["std"], sigma, rtol=1e-10)


def one_step(p: nn.Parameter, optimizer: BGD, curvature: float, target: float) -> None:
    with optimizer.sampling():
        for _ in range(optimizer.draws):
            optimizer.draw()
            p.grad = curvature * (p.detach() - target)
            optimizer.step()


@pytest.mark.parametrize("curvature", [-30.0, 0.0, 3.0, 1e3])
def test_sigma_makes_the_variational_objective_stationary(curvature: float) -> None:
    """Of 1/2 c (theta - t)^2: E[g eps] = c sigma, and sigma'^2 / sigma^2 + c sigma sigma' = 1 (Eq. 10 of the paper).

    With n draws the mean of g eps has a relative deviation of about sqrt(2 / n) around that.
    """
    p = nn.Parameter(torch.full((200_000,), 0.5, dtype=torch.float64))
    optimizer = BGD([p], std=0.3, draws=1)
    one_step(p, optimizer, curvature, 0.5)
    ge = curvature * 0.3  # in the mean; every element has one draw eps, and g eps = c sigma eps^2
    std = optimizer.state[p]["std"]
    eps_squared = (1 - (std / 0.3).square()) / (std * ge) if curvature else torch.ones(1)
    assert abs(eps_squared.mean() - 1) < 5 * math.sqrt(2 / len(p))
    assert bool((std > 0).all())


def test_a_steep_loss_leaves_a_little_of_sigma_in_single_precision() -> None:
    """sqrt(1 + a^2) - a is 0 there for a = 1e4 already."""
    p = nn.Parameter(torch.ones(100))
    optimizer = BGD([p], std=1.0, draws=5)
    one_step(p, optimizer, 1e6, 1.0)
    assert bool((optimizer.state[p]["std"] > 0).all())


def test_what_no_loss_reaches_and_what_is_frozen_stays() -> None:
    p, unused, frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    frozen.requires_grad_(False)
    optimizer = BGD([p, unused, frozen], std=0.1, draws=3)
    seen = []
    with optimizer.sampling():
        for _ in range(3):
            optimizer.draw()
            seen.append((p.detach().clone(), frozen.detach().clone()))
            p.grad = torch.ones(2)
            optimizer.step()
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], torch.ones(2))
    assert not torch.equal(p.detach(), torch.ones(2))
    for rests in (unused, frozen):
        assert torch.equal(rests.detach(), torch.ones(2))
        assert torch.equal(optimizer.state[rests]["std"], torch.full((2,), 0.1))


def bayesian(*streams: Any, **changes: Any) -> Trainer:
    given: dict[str, Any] = {
        "optimizer": lambda p: BGD(p, std=0.1, draws=3, samples=4.0, seed=5), "weighting": Mean(), "setting": "class",
    }  # fmt: skip
    found = streams or (stream("a", [0, 1], 36), stream("b", [2, 3], 60, start=4))
    return trainer(*found, **{**given, **changes})


def test_a_step_of_the_trainer_is_a_step_of_the_equations() -> None:
    t = bayesian(stream("a", [0, 1], 36), gradients_over="all")
    t.step()  # the head is there now
    model = copy.deepcopy(t.model)
    x, y = t.streams["a"].upcoming(1)[0]
    names = [name for name, _ in model.named_parameters()]
    by_name = dict(t.model.named_parameters())
    order = [next(name for name in names if by_name[name] is p) for g in t.optimizer.param_groups for p in g["params"]]

    def gradient(theta: list[Tensor]) -> list[Tensor]:
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in zip(order, theta, strict=True):
                parameters[name].copy_(value)
        loss = model.losses(x, y, "a").mean()
        return list(torch.autograd.grad(loss, [parameters[name] for name in order]))

    assert isinstance(t.optimizer, BGD)
    std = [t.optimizer.state[by_name[name]]["std"].clone() for name in order]
    moved, narrowed = step_plainly([by_name[name].detach().clone() for name in order], std, gradient, t.optimizer)
    t.step()
    for name, mean, sigma in zip(order, moved, narrowed, strict=True):
        assert torch.allclose(by_name[name].detach(), mean, rtol=1e-4, atol=1e-6)
        assert torch.allclose(t.optimizer.state[by_name[name]]["std"], sigma, rtol=1e-4)


def test_an_edit_after_the_step_sees_the_mean_over_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[Tensor]] = []
    drawn: list[list[Tensor]] = []

    class Seen(Stateless):
        def __call__(self, model: Any, losses: Any, x: Tensor, shared: Any, direction: list[Tensor]) -> Tensor:
            shown.append(direction)
            return x

    t = bayesian(memory=ClassMemory(per_class=2), edit=Seen())
    descend = t._descend

    def watched(data: Any) -> Any:
        descent = descend(data)
        drawn.append([part.clone() for part in descent.direction if part is not None])
        return descent

    monkeypatch.setattr(t, "_descend", watched)
    while not shown:
        drawn.clear()
        t.step()
    assert len(drawn) == 3
    assert not torch.equal(drawn[0][0], drawn[1][0])
    for mean, *parts in zip(shown[0], *drawn, strict=True):
        assert torch.allclose(mean, torch.stack(parts).mean(dim=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("setting", ["task", "class"])
def test_a_resumed_run_gives_the_same_bits(setting: str) -> None:
    whole = bayesian(setting=setting)
    whole.fit()
    for stop in (0, 3, 9, 14):
        first, second = bayesian(setting=setting), bayesian(setting=setting)
        first.fit(stop)
        second.load_state_dict(everything(first))
        assert same(everything(first), everything(second))
        second.fit()
        assert same(everything(whole), everything(second)), stop


class Moody(nn.Module):
    """Finite, or not."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mood, self.runs = MLP(6, [8]), False, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        out: Tensor = self.body(x)
        return out * torch.inf if self.mood and self.runs >= 3 else out


def moody() -> tuple[Trainer, Moody]:
    torch.manual_seed(0)
    backbone = Moody()
    t = Trainer(
        ContinualModel(backbone, 8), optimizer=lambda p: BGD(p, std=0.1, draws=3, seed=5), weighting=Sum(),
        strategy="loop",
    )  # fmt: skip
    t.add(stream("a", [0, 1], 200))
    t.fit(4)
    backbone.runs, backbone.mood = 0, True
    return t, backbone


def test_a_step_that_raises_at_its_last_draw_changes_nothing() -> None:
    t, _ = moody()
    before = everything(t)
    with pytest.raises(FloatingPointError):
        t.step()
    assert same(before, everything(t))


def test_a_bad_step_on_a_gpu_learns_nothing() -> None:
    """What its guard does, on the CPU."""
    t, backbone = moody()
    before = everything(t)
    t._guard = Later(torch.device("cpu"))
    t.step()
    backbone.mood = False
    with pytest.raises(FloatingPointError, match="is not finite"):
        t.fit(2)
    for part in ("model", "optimizer"):
        assert same(before[part], everything(t)[part]), part


def test_refusals() -> None:
    p = [nn.Parameter(torch.ones(1))]
    for name in ("lr", "std", "samples"):
        with pytest.raises(ValueError, match=f"BGD: expected a finite {name} above 0, got 0"):
            BGD(p, **{name: 0})
    with pytest.raises(ValueError, match="expected draws >= 1"):
        BGD(p, draws=0)
    with pytest.raises(RuntimeError, match="within `with sampling"):
        BGD(p).step()
    with pytest.raises(ValueError, match="SI learns from the updates along gradients"):
        bayesian(loss_terms=[SI(1.0)])


def test_it_has_a_name_on_the_command_line() -> None:
    config = RunConfig(
        scenario="split-digits", method="sum", memory="none", setting="class", optimizer="bgd", epochs=1, bgd_draws=2
    )
    _, t = build(config)
    assert isinstance(t.optimizer, BGD)
    assert config.resolved().lr == 1.0
    given = {name: t.optimizer.param_groups[0][name] for name in ("lr", "std", "draws", "samples")}
    assert given == {"lr": 1.0, "std": 0.02, "draws": 2, "samples": 16}
    assert RunConfig(optimizer="bgd", lr=0.5).resolved().lr == 0.5
