"""Firefly neural architecture descent: a network that grows where it lowers the loss most."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pcl.models.growth.candidates import Candidates
from pcl.models.growth.choice import Budget, Scores, choose, gains, planned, steps_taken, turned
from pcl.models.growth.graph import WidthGraph
from pcl.models.growth.new_layers import Offers, of_group
from pcl.models.growth.overgrown import OverGrown
from pcl.models.growth.plan import GroupGrowth
from pcl.models.growth.rebuild import rebuild
from pcl.models.growth.scoring import Objective, scores
from pcl.models.growth.sizes import Sizes
from pcl.models.modes import evaluation_mode


@dataclass(frozen=True)
class Search:
    """What a search among candidates found; nothing of the network has changed yet.

    Args:
        plan: by group, what it gains.
        scores: by group, s of Eq. 5.5 for old ``(m,)`` and new ``(m',)`` neurons, float64.
        chosen: by group, bool ``(m + m',)``: which candidates, old neurons first, are taken.
        predicted: the sum of the gains of the chosen, to first order by how much they lower the objective.
        losses: the objective of the over-grown network before every step of the optimisation.
    """

    plan: dict[str, GroupGrowth]
    scores: dict[str, tuple[Tensor, Tensor]]
    chosen: dict[str, Tensor]
    predicted: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Growth:
    """One growth of a network.

    Args:
        before, after: width of every group that can grow, the hidden width of new layers included.
        layers: names of the layers that are new.
        parameters, flops: how many the network has more; see :class:`Budget`.
        loss_before, loss_after: the objective of the network in evaluation mode, over the batches of the scores.
        search: what was found; ``search.predicted`` is to be compared with ``loss_before - loss_after``.
    """

    before: dict[str, int]
    after: dict[str, int]
    layers: tuple[str, ...]
    parameters: int
    flops: int
    loss_before: float
    loss_after: float
    search: Search

    @property
    def neurons(self) -> int:
        """How many neurons the network has more."""
        return sum(self.after.values()) - sum(self.before.values())


class Firefly:
    """Grows a network, in place and in the middle of training, by steepest descent in the space of architectures.

    A growth phase (Alg. 5) over-grows the network: every neuron is split into two halves at theta +- epsilon_i delta_i
    and every group of channels gets ``new`` neurons whose output is scaled by epsilon_i, so that the function changes
    by O(epsilon) only. Then, with the network's own weights at rest,

    1. delta and epsilon are trained for a few steps of Adam on
       ``objective + penalty * (sum_i max(0, |delta_i| - 1)^2 + sum_i max(0, |epsilon_i| - step)^2)`` (Eq. 5.4), and
       what is still too long is shortened;
    2. every candidate is scored by its integrated gradient (Eq. 5.5; :func:`pcl.models.growth.scoring.scores`);
    3. those of largest predicted gain are taken, as far as the budget allows (Eq. 5.6, 5.8), and the network is rebuilt
       with them as plain layers.

    Gains are epsilon |s| for new neurons, whose sign is free, and max(0, -epsilon s) for splits: both signs of epsilon
    give the same two halves, so that a split which raises the loss cannot be turned around as Eq. 5.6 has it.

    Args:
        step: epsilon, the step size in the space of functions. 1 has served better than 0.1 where a long training
            followed (studies/firefly_width.py).
        new: m', how many new neurons each group is offered.
        split: whether neurons may split.
        layers: m' of new layers: with 1 or more, an identity x + outer(act(inner(x))) is offered behind every
            activation of an nn.Sequential, with so many new hidden neurons, of which at least two must be taken
            (Sec. 5.2.3). A :class:`ResidualLayer` of the model's own that has no neuron yet needs no such offer.
        steps: how many steps delta and epsilon are trained.
        lr: learning rate of these steps.
        penalty: weight of the penalty.
        points: n of Eq. 5.5 where it is summed and not exact.
        score_batches: over how many of the batches scores, and the losses that are reported, are means.
        seed: of the first directions and new neurons. The same network, seed and batches give the same bits.

    Raises:
        ValueError: for a number out of range.

    Source: Bo Liu's dissertation (2025), Ch. 5; Wu et al., Firefly Neural Architecture Descent (2020).
    """

    def __init__(
        self,
        *,
        step: float = 0.1,
        new: int = 8,
        split: bool = True,
        layers: int = 0,
        steps: int = 40,
        lr: float = 0.03,
        penalty: float = 1.0,
        points: int = 3,
        score_batches: int = 4,
        seed: int = 0,
    ) -> None:
        for name, value, least in (("new", new, 0), ("layers", layers, 0), ("steps", steps, 0), ("points", points, 1)):
            if value < least:
                raise ValueError(f"Firefly: {name}: expected at least {least}, got {value}")
        for name, number in (("step", step), ("lr", lr)):
            if not number > 0:
                raise ValueError(f"Firefly: {name}: expected a positive number, got {number}")
        if penalty < 0 or score_batches < 1:
            raise ValueError(
                f"Firefly: expected penalty >= 0 and score_batches >= 1, got {penalty} and {score_batches}"
            )
        if not (new or split or layers):
            raise ValueError("Firefly: with new=0, layers=0 and split=False there is no candidate; allow one of them")
        self.step, self.new, self.split, self.layers, self.steps, self.lr = step, new, split, layers, steps, lr
        self.penalty, self.points, self.score_batches, self.seed = penalty, points, score_batches, seed

    def grow(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        objective: Objective,
        budget: Budget,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        groups: Sequence[str] | None = None,
        pointwise: Sequence[type[nn.Module]] = (),
    ) -> Growth:
        """One growth phase. The model keeps its identity and its layers theirs; they get new, larger parameters.

        Args:
            model: see :class:`WidthGraph` for what it may be made of.
            batches: of whatever kind the objective takes, one for every step of the candidates' training; as many as
                there are steps are read, and read again where there are fewer.
            objective: ``objective(f, batch)``, the loss as a scalar; f is called like the model.
            budget: what may be added.
            optimizer: of the model's parameters: it is handed the new ones, with the state of the old.
            groups: names of the groups that may grow, see :class:`WidthGraph`; None: all that can.
            pointwise: see :class:`WidthGraph`.

        Raises:
            ValueError: if the network cannot be traced, a group cannot grow, there is no batch, or the objective is no
                scalar. Nothing has changed then.
        """
        read = list(itertools.islice(batches, max(self.steps, 1)))
        if not read:
            raise ValueError("Firefly: batches: there is none; pass at least one")
        with evaluation_mode(model):
            example = example_of(model, objective, read[0])
            graph = WidthGraph(model, example, pointwise=pointwise)
            offers = Offers(model, graph, pointwise) if self.layers else None
        try:
            if offers is not None:
                offers.insert()
            with evaluation_mode(model):
                graph = graph if offers is None else WidthGraph(model, example, pointwise=pointwise)
                found = self.search(graph, self._candidates(graph, groups, offers), read, objective, budget)
                loss_before = _mean_loss(model, self._scored(read), objective)
                if offers is not None:
                    offers.keep(found.plan, optimizer)
                    graph = WidthGraph(model, example, pointwise=pointwise)
                    of_groups = {name: of_group(growth, graph.groups[name]) for name, growth in found.plan.items()}
                    found = replace(found, plan=of_groups)
                sizes = Sizes(graph)
            rebuild(model, graph.groups, found.plan, optimizer)
        except BaseException:
            if offers is not None:
                offers.undo(optimizer)
            raise
        with evaluation_mode(model):
            loss_after = _mean_loss(model, self._scored(read), objective)
        before = {name: graph.groups[name].width for name in graph.growable()}
        after = {n: width + (found.plan[n].gained() if n in found.plan else 0) for n, width in before.items()}
        parameters, flops = (count(after) - count({}) for count in (sizes.parameters, sizes.flops))
        layers = () if offers is None else tuple(offer.name for offer in offers.offers)
        return Growth(before, after, layers, parameters, flops, loss_before, loss_after, found)

    def _candidates(self, graph: WidthGraph, groups: Sequence[str] | None, offers: Offers | None) -> Candidates:
        layers = [] if offers is None else offers.hidden
        names = graph.growable() if groups is None else [*groups, *layers]
        new = {name: self.layers if name in layers else self.new for name in names}
        return Candidates(graph, groups=names, new=new, split=self.split, step=self.step, seed=self.seed)

    def search(
        self, graph: WidthGraph, candidates: Candidates, batches: Sequence[Any], objective: Objective, budget: Budget
    ) -> Search:
        """Train and score candidates and choose among them; the network, in evaluation mode, stays as it is.

        For callers with candidates of their own (which neurons may split, which are copied) or an objective that calls
        ``f(x, masks=...)``, see :meth:`OverGrown.forward`.
        """
        if not candidates.groups:
            reasons = "; ".join(f"{name!r}: {group.fixed}" for name, group in graph.groups.items() if group.fixed)
            raise ValueError(f"Firefly: there is no candidate, as no group can grow or none may. Fixed are {reasons}")
        network = OverGrown(graph, candidates)
        with network.measuring(), torch.no_grad():
            objective(network, batches[0])
        losses = self._train(network, batches, objective)
        with torch.enable_grad():
            found = scores(network, self._scored(batches), objective, points=self.points)
        free, (chosen, predicted) = True, _best(graph, candidates, found, budget, free=True)
        against = {name: turned(c, *found[name], candidates.step) for name, c in candidates.groups.items()}
        if any(bool((against[name] & chosen[name].to(against[name].device)).any()) for name in chosen):
            kept = _best(graph, candidates, found, budget, free=False)
            losses_then = [
                self._loss_with(network, found, picked, batches, objective, free=sign)
                for picked, sign in ((chosen, True), (kept[0], False))
            ]
            if losses_then[1] < losses_then[0]:
                free, (chosen, predicted) = False, kept
        return Search(planned(graph, candidates, found, chosen, free=free), found, chosen, predicted, losses)

    def _train(self, network: OverGrown, batches: Sequence[Any], objective: Objective) -> tuple[float, ...]:
        """Step one of Sec. 5.2.2."""
        candidates = network.candidates
        trained = candidates.trained()
        optimizer = torch.optim.Adam(trained, lr=self.lr)
        losses = []
        for batch in itertools.islice(itertools.cycle(batches), self.steps):
            with torch.enable_grad():
                loss = objective(network, batch)
                whole = loss + self.penalty * candidates.penalty()
                # not backward(): the network's own parameters get no gradient
                gradients = torch.autograd.grad(whole, trained, allow_unused=True)
            for tensor, gradient in zip(trained, gradients, strict=True):
                tensor.grad = gradient
            optimizer.step()
            losses.append(loss.detach())
        for tensor in trained:
            tensor.grad = None
        candidates.project()
        return tuple(torch.stack(losses).tolist()) if losses else ()

    @torch.no_grad()
    def _loss_with(
        self,
        network: OverGrown,
        scores: Scores,
        chosen: Mapping[str, Tensor],
        batches: Sequence[Any],
        objective: Objective,
        *,
        free: bool,
    ) -> float:
        """The objective with the steps of the chosen candidates and no others."""
        before = {name: (c.epsilon.clone(), c.epsilon_new.clone()) for name, c in network.candidates.groups.items()}
        try:
            for name, c in network.candidates.groups.items():
                steps = steps_taken(c, *scores[name], network.candidates.step, free=free)
                alone = torch.cat(steps) * chosen[name].to(c.epsilon.device)
                c.epsilon.copy_(alone[: len(c.epsilon)])
                c.epsilon_new.copy_(alone[len(c.epsilon) :])
            return _mean_loss(network, self._scored(batches), objective)
        finally:
            for name, c in network.candidates.groups.items():
                c.epsilon.copy_(before[name][0])
                c.epsilon_new.copy_(before[name][1])

    def _scored(self, batches: Sequence[Any]) -> Sequence[Any]:
        return batches[-self.score_batches :]


def _best(
    graph: WidthGraph, candidates: Candidates, scores: Scores, budget: Budget, *, free: bool
) -> tuple[dict[str, Tensor], float]:
    """The candidates of largest gain, and the sum of their gains."""
    gain = {name: gains(c, *scores[name], candidates.step, free=free) for name, c in candidates.groups.items()}
    chosen = choose(graph, candidates, gain, budget)
    return chosen, sum((float(gain[name][chosen[name].to(gain[name].device)].sum()) for name in gain), 0.0)


def refuse_new_layers(who: str, firefly: Firefly, budget: Budget) -> None:
    """Raises ValueError where tasks that have ended share the network."""
    if firefly.layers or budget.layers:
        raise ValueError(
            f"{who}: expected no new layers, got layers={firefly.layers} of the Firefly and {budget.layers} of the "
            "budget; a new layer would change what finished tasks compute"
        )


def example_of(model: nn.Module, objective: Objective, batch: Any) -> tuple[Any, ...]:
    """What the objective calls the model with first.

    Raises:
        ValueError: if it is not called, or the objective is no scalar.
    """
    seen: list[tuple[Any, ...]] = []

    def watched(*inputs: Any) -> Any:
        seen.append(inputs)
        return model(*inputs)

    with torch.no_grad():
        loss = objective(watched, batch)
    if not isinstance(loss, Tensor) or loss.dim() > 0:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"Firefly: objective: expected a scalar tensor, got {found}; take a mean or a sum")
    if not seen:
        raise ValueError("Firefly: objective: it does not call the network that it is given; see objective(f, batch)")
    return seen[0]


@torch.no_grad()
def _mean_loss(f: Callable[..., Any], batches: Sequence[Any], objective: Objective) -> float:
    return float(torch.stack([objective(f, batch) for batch in batches]).mean())
