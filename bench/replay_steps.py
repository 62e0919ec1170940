"""Whole steps of replay: ours, a bare PyTorch loop that does the same, and torch's own work in them.

MLP 784-400-400-10, plain SGD, a batch with as many samples from a memory of 500, the sum of both losses but for GEM and
A-GEM. GEM has four finished tasks with 120 stored samples each, and takes a batch of each. A bare loop is what one
writes by hand for one method: one forward and backward pass over all samples where their losses are summed, tensors for
the memory, `torch.randperm` to draw from it, a copy of the model that looks ahead. The floor makes the same passes and
updates on samples that are always the same: no stream, no memory, no look at what comes out.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from bench.common import resident
from pcl import (
    AGEM,
    DER,
    GEM,
    MIR,
    MLP,
    BeforeUpdate,
    ClassMemory,
    ContinualModel,
    GMEDEdit,
    ReservoirMemory,
    Stream,
    Sum,
    Trainer,
)

MEMORY, LR, ALPHA, BETA, CANDIDATES, FINISHED = 500, 0.05, 5.0, 0.01, 50, 4
METHODS = ("ER", "MIR", "ER + GMED", "MIR + GMED", "DER", "DER++", "A-GEM", "GEM")
LARGE = ("ER", "DER", "DER++", "A-GEM", "GEM")  # with batches larger than the candidates of MIR
DARK = {"DER": 0.0, "DER++": 0.5}  # the factor of the cross-entropy, beside 0.5 for the stored logits
WEIGHTINGS = {"A-GEM": AGEM, "GEM": GEM}
Step = Callable[[], object]


def endless(batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches, the same hundred again and again."""
    draws = torch.Generator().manual_seed(0)
    y = torch.randint(10, (100, batch), generator=draws)
    centres = torch.rand(10, 784, generator=draws)
    x = (centres[y] + 0.3 * torch.rand(100, batch, 784, generator=draws)) / 1.3
    return itertools.cycle(list(zip(x, y, strict=True)))


def ours(method: str, batch: int = 10) -> Step:
    """A step of the trainer."""
    torch.manual_seed(0)
    edit = GMEDEdit(ALPHA, beta=BETA, lr=LR, mean_loss=True, valid=None) if "GMED" in method else None
    each = method == "GEM"
    trainer = Trainer(
        ContinualModel(MLP(784, [400, 400]), 400, "class"), optimizer=lambda p: torch.optim.SGD(p, lr=LR),
        weighting=WEIGHTINGS.get(method, Sum)(), gradients_over="all" if method in WEIGHTINGS else "backbone",
        memory=ClassMemory(12) if each else ReservoirMemory(MEMORY, logits=method in DARK),
        memory_tasks="each" if each else "one", memory_batch=FINISHED * batch if each else batch,
        loss_terms=[DER(0.5, DARK[method])] if method in DARK else [],
        retrieval=MIR(CANDIDATES, lr=LR) if "MIR" in method else None,
        edit=BeforeUpdate(edit, "others" if "MIR" in method else "recalled") if edit else None,
    )  # fmt: skip
    for task in range(FINISHED if each else 0):
        trainer.add(Stream(f"finished {task}", itertools.islice(endless(batch), 20), range(10)))
    trainer.add(Stream("a", endless(batch), range(10)))
    trainer.fit(100)
    return trainer.step


def bare(method: str, batch: int = 10) -> Step:
    """The same step by hand."""
    if method in WEIGHTINGS:
        return bare_projected(method, batch)
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    batches, xs, ys, seen = endless(batch), torch.empty(MEMORY, 784), torch.empty(MEMORY, dtype=torch.int64), 0
    zs = torch.empty(MEMORY, 10)

    def look_ahead(x: Tensor, y: Tensor) -> nn.Module:
        ahead = copy.deepcopy(model)
        gradients = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(ahead.parameters(), gradients, strict=True):
                p.sub_(g, alpha=LR)
        return ahead

    def draw(count: int) -> Tensor:
        return torch.randperm(min(seen, MEMORY))[:count]

    def step() -> None:
        nonlocal seen
        x_new, y_new = next(batches)
        logits = model(x_new) if not seen else None
        loss_of = cross_entropy(logits, y_new) if logits is not None else None
        if seen and method in DARK:
            dark, labelled = draw(batch), draw(batch if DARK[method] else 0)
            logits = model(torch.cat([x_new, xs[dark], xs[labelled]]))
            loss_of = cross_entropy(logits[:batch], y_new) + 0.5 * mse_loss(logits[batch : 2 * batch], zs[dark])
            if DARK[method]:
                loss_of = loss_of + DARK[method] * cross_entropy(logits[2 * batch :], ys[labelled])
        elif seen:
            ahead = look_ahead(x_new, y_new) if method != "ER" else model
            rows = draw(CANDIDATES if "MIR" in method else batch)
            if "MIR" in method:
                with torch.no_grad():
                    later, now = (cross_entropy(m(xs[rows]), ys[rows], reduction="none") for m in (ahead, model))
                rows = rows[(later - now).topk(batch).indices]
            x, y = xs[rows], ys[rows]
            if "GMED" in method:
                chosen = draw(batch) if "MIR" in method else rows
                edited = xs[chosen].requires_grad_()
                now, later = (cross_entropy(m(edited), ys[chosen]) for m in (model, ahead))
                slope = torch.autograd.grad(later - (1 + BETA) * now, edited)[0]
                xs[chosen] = (edited + ALPHA * slope).detach()
                x = x if "MIR" in method else xs[rows]
            logits = model(torch.cat([x_new, x]))
            loss_of = cross_entropy(logits[:batch], y_new) + cross_entropy(logits[batch:], y)
        assert loss_of is not None
        assert logits is not None
        optimizer.zero_grad()
        loss_of.backward()
        optimizer.step()
        for x_one, y_one, z_one in zip(x_new, y_new, logits[:batch].detach(), strict=True):
            place = seen if seen < MEMORY else int(torch.randint(seen + 1, ()))
            if place < MEMORY:
                xs[place], ys[place] = x_one, y_one
                if method in DARK:
                    zs[place] = z_one
            seen += 1

    for _ in range(100):
        step()
    return step


def bare_projected(method: str, batch: int) -> Step:
    """A-GEM and GEM by hand, on flat gradients; GEM with quadprog, as in its published code."""
    torch.manual_seed(0)
    model, batches = network(), endless(batch)
    parameters = list(model.parameters())
    tasks = FINISHED if method == "GEM" else 1
    room = 120 if method == "GEM" else MEMORY
    xs, ys = (torch.cat(parts) for parts in zip(*itertools.islice(batches, tasks * room // batch + 1), strict=True))
    seen = 0

    def flat(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(cross_entropy(model(x), y), parameters)])

    def step() -> None:
        nonlocal seen
        x_new, y_new = next(batches)
        new = flat(x_new, y_new)
        blocks = [torch.randperm(room)[:batch] + task * room for task in range(tasks)]
        old = torch.stack([flat(xs[rows], ys[rows]) for rows in blocks])
        along = old @ new
        if tasks == 1 and along[0] < 0:
            new = new - along[0] / (old[0] @ old[0]) * old[0]
        elif tasks > 1 and (along < 0).any():
            from quadprog import solve_qp

            eye = torch.eye(tasks, dtype=torch.float64)
            gram = (old @ old.T).double() + 1e-6 * eye
            v = solve_qp(gram.numpy(), -along.double().numpy(), eye.numpy(), torch.zeros(tasks).double().numpy())[0]
            new = new + torch.from_numpy(v).float() @ old
        with torch.no_grad():
            for p, u in zip(parameters, new.split([p.numel() for p in parameters]), strict=True):
                p.sub_(u.view_as(p), alpha=LR)
        for x_one, y_one in zip(x_new, y_new, strict=True):
            place = seen % room if method == "GEM" else int(torch.randint(MEMORY + seen, ()))
            if place < room:
                xs[place], ys[place] = x_one, y_one
            seen += 1

    return step


def floor(method: str, batch: int = 10) -> Step:
    """The passes and updates of the bare loop, on the same samples in every step."""
    torch.manual_seed(0)
    model, ahead = network(), network()
    parameters, there = list(model.parameters()), list(ahead.parameters())
    passes = {"DER++": 3, "A-GEM": 1, "GEM": 1}.get(method, 2)
    x, y = torch.rand(max(CANDIDATES, 3 * batch), 784), torch.randint(10, (max(CANDIDATES, 3 * batch),))

    def gradient(count: int) -> tuple[Tensor, ...]:
        return torch.autograd.grad(cross_entropy(model(x[:count]), y[:count]), parameters)

    @torch.no_grad()
    def move(into: list[nn.Parameter], along: tuple[Tensor, ...]) -> None:
        for q, p, g in zip(into, parameters, along, strict=True):
            torch.sub(p, g, alpha=LR, out=q)

    def slope(m: nn.Module) -> Tensor:
        edited = x[:batch].requires_grad_()
        return torch.autograd.grad(cross_entropy(m(edited), y[:batch]), edited)[0]

    def step() -> None:
        if "MIR" in method or "GMED" in method:
            move(there, gradient(batch))
        if "MIR" in method:
            with torch.no_grad():
                ahead(x[:CANDIDATES]), model(x[:CANDIDATES])
        if "GMED" in method:
            slope(model), slope(ahead)
        for _ in range({"A-GEM": 1, "GEM": FINISHED}.get(method, 0)):
            gradient(batch)
        move(parameters, gradient(passes * batch))

    return step


def network() -> nn.Module:
    """Backbone and head in one, of torch's own layers."""
    return nn.Sequential(*MLP(784, [400, 400]), nn.Linear(400, 10))


def tenths(steps: int) -> list[tuple[float, float]]:
    """Steps per second of ER in each tenth of a long run, the median of the hundredths in it, and resident MB at its
    end."""
    step, found = ours("ER"), []
    for _ in range(10):
        times = []
        for _ in range(10):
            start = time.perf_counter()
            for _ in range(steps // 100):
                step()
            times.append((time.perf_counter() - start) / (steps // 100))
        found.append((1 / statistics.median(times), resident("VmRSS")))
    return found
