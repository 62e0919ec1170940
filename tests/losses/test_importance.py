"""What EWC and MAS find important, and the penalties that follow, against formulas written out in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl import EWC, MAS, MLP, ContinualModel, OnlineEWC
from pcl.losses.task_samples import TaskSamples


def regression(n: int) -> tuple[ContinualModel, Tensor, Tensor]:
    """Softmax regression on 3 inputs and 4 classes."""
    torch.manual_seed(0)
    model = ContinualModel(nn.Identity(), 3, "task").double()
    model.add_task("a", [5, 2, 9, 3])
    model.double()
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=draws, dtype=torch.float64)
    return model, x, torch.tensor([5, 2, 9, 3])[torch.randint(0, 4, (n,), generator=draws)]


def fisher_of(term: EWC, model: ContinualModel, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    term.observe("a", x, y)
    term.task_ended(model, "a")
    weight, bias = (term.springs[f"heads.0.{name}"].stiffness / term.strength for name in ("weight", "bias"))
    return weight, bias


def test_the_empirical_fisher_of_softmax_regression() -> None:
    """g_W = (p - e_y) x^T, g_b = p - e_y."""
    model, x, y = regression(50)
    weight, bias = fisher_of(EWC(3.0, fisher="empirical", samples=50, protect="all"), model, x, y)
    p = model(x, "a").softmax(1).detach()
    apart = p - F.one_hot(model.column_of(y, "a"), 4)
    assert torch.allclose(bias, apart.square().mean(0), rtol=1e-12)
    assert torch.allclose(weight, torch.einsum("bc,bj->cj", apart.square(), x.square()) / 50, rtol=1e-12)


def test_the_true_fisher_of_softmax_regression() -> None:
    """E (p_c - [y = c])^2 = p_c (1 - p_c); within five standard deviations of a mean of so many draws."""
    n = 3000
    model, x, y = regression(5)
    weight, bias = fisher_of(EWC(1.0, samples=n, protect="all"), model, x.repeat(n // 5, 1), y.repeat(n // 5))
    p = model(x, "a").softmax(1).detach()
    mean = p * (1 - p)
    variance = p * (1 - p).pow(4) + (1 - p) * p.pow(4) - mean.square()
    for found, part in ((bias, torch.ones(5, 1, dtype=torch.float64)), (weight, x)):
        expected = torch.einsum("bc,bj->cj", mean, part.square()).view_as(found) / 5
        deviation = (torch.einsum("bc,bj->cj", variance, part.pow(4)).view_as(found) / (5 * n)).sqrt()
        assert ((found - expected).abs() < 5 * deviation).all()
        assert (deviation < 0.1 * expected).all()  # so that the line above says something


def network(setting: str = "task") -> ContinualModel:
    torch.manual_seed(3)
    model = ContinualModel(nn.Sequential(MLP(6, [7, 5]), nn.BatchNorm1d(5), nn.Dropout(0.5)), 5, setting).double()  # type: ignore[arg-type]
    for task, classes in TASKS.items():
        model.add_task(task, classes)
    model.double().backbone(torch.randn(40, 6, dtype=torch.float64))  # statistics
    return model


TASKS = {"a": [0, 1, 2], "b": [4, 3], "c": [7, 2]}
SAMPLES = 19  # more than are worked on at once


def samples_of(task: str) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(len(task) + ord(task))
    y = torch.tensor(TASKS[task])[torch.randint(0, len(TASKS[task]), (SAMPLES,), generator=draws)]
    return torch.randn(SAMPLES, 6, generator=draws, dtype=torch.float64), y


def by_hand(model: ContinualModel, task: str, objective: Callable[[Tensor, int], Tensor], power: int) -> list[Tensor]:
    """Mean over the samples of |gradient|^power, a backward pass each."""
    x, _ = samples_of(task)
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    model.eval()
    for row in range(SAMPLES):
        loss = objective(model(x[row : row + 1], task)[0], row)
        for so_far, g in zip(total, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            so_far += 0 if g is None else g.abs() ** power / SAMPLES
    model.train()
    return total


def nll(model: ContinualModel, task: str) -> Callable[[Tensor, int], Tensor]:
    _, y = samples_of(task)
    columns = [model.columns(task).index(int(c)) for c in y]
    return lambda logits, row: -logits.log_softmax(0)[columns[row]]


def moved(model: ContinualModel, seed: int) -> None:
    """Other tasks go on."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=draws, dtype=p.dtype)


@pytest.mark.parametrize("setting", ["task", "class"])
@pytest.mark.parametrize("protect", ["backbone", "all"])
@pytest.mark.parametrize("kind", ["ewc", "online ewc", "mas"])
def test_penalties_and_their_gradients(kind: str, protect: Any, setting: str) -> None:
    """After three ends, the parameters going on in between, against the formula of each and autograd."""
    settings = {"samples": SAMPLES, "protect": protect}
    term = {
        "ewc": lambda: EWC(30.0, fisher="empirical", **settings),
        "online ewc": lambda: OnlineEWC(30.0, decay=0.7, fisher="empirical", **settings),
        "mas": lambda: MAS(0.5, **settings),
    }[kind]()
    model = network(setting)
    for task in TASKS:
        term.observe(task, *samples_of(task))
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    generators = torch.get_rng_state()
    importances: list[list[Tensor]] = []
    anchors: list[list[Tensor]] = []
    for i, task in enumerate(TASKS):
        if kind == "mas":
            importances.append(by_hand(model, task, lambda logits, row: logits.square().sum(), 1))
        else:
            importances.append(by_hand(model, task, nll(model, task), 2))
        anchors.append([p.detach().clone() for p in model.parameters()])
        term.task_ended(model, task)
        moved(model, i)
    assert all(module.training for module in model.modules())
    assert torch.equal(generators, torch.get_rng_state())
    assert all(torch.equal(buffers[name], b) for name, b in model.named_buffers())

    named = dict(model.named_parameters())
    terms = []
    for j, (name, p) in enumerate(named.items()):
        if protect == "backbone" and not name.startswith("backbone"):
            continue
        first, second, third = (importance[j] for importance in importances)
        if kind == "ewc":
            terms += [
                15.0 * (f[j] * (p - anchor[j]) ** 2).sum() for f, anchor in zip(importances, anchors, strict=True)
            ]
        elif kind == "online ewc":
            terms.append(15.0 * ((0.7 * (0.7 * first + second) + third) * (p - anchors[2][j]) ** 2).sum())
        else:
            terms.append(0.5 * ((first + second + third) * (p - anchors[2][j]) ** 2).sum())
    expected = torch.stack(terms).sum()
    slopes = torch.autograd.grad(expected, list(named.values()), allow_unused=True)
    assert torch.allclose(term.value(named), expected, rtol=1e-10)
    for force, slope in zip(term.gradient(named), slopes, strict=True):
        assert (force is None) == (slope is None)
        if force is not None and slope is not None:
            assert torch.allclose(force, slope, rtol=1e-8, atol=1e-12 * float(slope.abs().max()))


def test_drawn_labels_are_the_ones_that_count() -> None:
    """The Fisher information is that of labels drawn with the model's probabilities from the term's own generator."""
    model, term = network(), EWC(1.0, samples=SAMPLES, seed=4)
    x, y = samples_of("a")
    term.observe("a", x, y)
    draws = torch.Generator()
    draws.set_state(term._samples.draws.get_state())
    p = model.eval()(x, "a").softmax(1).detach()
    u = torch.rand(SAMPLES, 1, generator=draws, dtype=torch.float64)
    columns = [next(c for c in range(3) if u[b] < p[b, : c + 1].sum() or c == 2) for b in range(SAMPLES)]
    assert sum(c != model.columns("a").index(int(label)) for c, label in zip(columns, y, strict=True)) > 0
    expected = by_hand(model, "a", lambda logits, row: -logits.log_softmax(0)[columns[row]], 2)
    term.task_ended(model, "a")
    for (name, _), f in zip(model.named_parameters(), expected, strict=True):
        if name.startswith("backbone"):
            assert torch.allclose(term.springs[name].stiffness, f, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_samples_kept_are_a_uniform_draw(batch: int) -> None:
    """Each of 64 samples stays in 16 of 64 cases; 800 repetitions keep within six standard deviations of that.

    One repetition keeps exactly 16, so that the counts are correlated, and the statistic below follows a chi-square law
    of 63 degrees of freedom.
    """
    repeats, n, kept = 800, 64, 16
    counts = torch.zeros(n)
    x, y = torch.arange(n).double()[:, None], torch.arange(n)
    for seed in range(repeats):
        samples = TaskSamples(kept, seed, "test")
        for part in range(0, n, batch):
            samples.observe("a", x[part : part + batch], y[part : part + batch])
        found, labels = samples.take("a")
        assert torch.equal(found[:, 0].long(), labels)
        assert len(set(labels.tolist())) == kept
        counts[labels] += 1
    p = kept / n
    statistic = float(((counts - repeats * p) ** 2 / (repeats * p * (1 - p))).sum()) * (n - 1) / n
    z = (statistic - (n - 1)) / math.sqrt(2 * (n - 1))
    assert abs(z) < 6


def test_few_samples_are_all_kept_and_taken_once() -> None:
    samples = TaskSamples(10, 0, "test")
    x, y = torch.rand(6, 2), torch.arange(6)
    samples.observe("a", x[:4], y[:4])
    samples.observe("b", x, y)
    samples.observe("a", x[4:], y[4:])
    found, labels = samples.take("a")
    assert torch.equal(found, x)
    assert torch.equal(labels, y)
    assert list(samples.state_dict()["seen"]) == ["b"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EWC(0.0), "EWC: expected a finite strength above 0, got 0.0"),
        (lambda: MAS(math.inf), "MAS: expected a finite strength"),
        (lambda: EWC(1.0, samples=0), "EWC: expected samples >= 1, got 0"),
        (lambda: EWC(1.0, fisher="exact"), "expected fisher 'true' or 'empirical', got 'exact'"),  # type: ignore[arg-type]
        (lambda: OnlineEWC(1.0, decay=1.5), "expected a decay above 0 and at most 1, got 1.5"),
        (lambda: OnlineEWC(-1.0), "OnlineEWC: expected a finite strength"),
        (lambda: MAS(1.0, protect="head"), "expected 'backbone' or 'all'"),  # type: ignore[arg-type]
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
