"""One network that grows as tasks come, of which every task uses a part that never changes once the task has ended."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pcl.models.continual import ContinualModel, Setting
from pcl.models.growth.candidates import Candidates
from pcl.models.growth.choice import Budget
from pcl.models.growth.firefly import Firefly, Search, refuse_new_layers
from pcl.models.growth.graph import Group, Reader, WidthGraph
from pcl.models.growth.locks import attach, close, detach, resize
from pcl.models.growth.plan import GroupGrowth
from pcl.models.growth.rebuild import rebuild
from pcl.models.growth.resting import channels_at_rest, resting
from pcl.models.growth.task_masks import Owned, TaskMasks, gated
from pcl.models.growth.whole import Whole, compact, is_head, of_tasks, together
from pcl.models.heads import Head, SigmoidHead
from pcl.models.modes import evaluation_mode


class GrowingModel(ContinualModel):
    """Backbone and heads for tasks that come one after the other or in parallel, and never disturb those that have
    ended (Bo Liu's dissertation, 2025, Sec. 5.2.4 and Alg. 6).

    Task t uses the neurons of its masks mu_t (:class:`pcl.models.growth.task_masks.TaskMasks`): whatever reads the
    channels h of a group, reads h * mu_t. It begins with all neurons there are, and learns which of those that no
    longer change it can use. When it ends,

    - every entry that it uses is locked: weights between neurons of mu_t, their biases and the scales and statistics of
      their normalisation (:mod:`pcl.models.growth.locks`). No optimizer moves them again. Weights between an old neuron
      and a newer one belong to the tasks that use both;
    - it is told its classes by the plain network of its neurons alone (:meth:`task_network`), so that its logits keep
      their bits, whatever the network grows to.

    :class:`pcl.Grow` lets it grow in training. The task setting alone: a classifier over the classes of all tasks would
    have to know whose neurons to use.

    Args:
        backbone: module from a batch x to features ``(B, features)`` whose widths :class:`pcl.WidthGraph` understands.
        features: width of the backbone's output.
        example: samples ``(B, ...)`` that the backbone takes, one is enough: to see how its layers hang together.
        setting: ``"task"``.
        head: ``"linear"`` or ``"sigmoid"``.
        mask_start: of the scores by which masks are learned: with Adam at rate lr it takes at least ``mask_start / lr``
            steps to drop a neuron. Where these are few, noise drops neurons that the task needs.
        seed: for the initial values of the heads.

    Raises:
        ValueError: for the class setting, another head, a start that is not above 0, a backbone with parametrized
            layers, or one in which no width can grow, saying why.
    """

    example: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        features: int,
        example: Tensor,
        setting: Setting = "task",
        *,
        head: Head | SigmoidHead = "linear",
        mask_start: float = 0.25,
        seed: int = 0,
    ) -> None:
        if setting != "task":
            raise ValueError(
                f"GrowingModel setting: expected 'task', got {setting!r}; which neurons a sample runs through depends "
                "on its task, so that one classifier over all classes cannot be asked"
            )
        if not (head in ("linear", "sigmoid") or isinstance(head, SigmoidHead)):
            raise ValueError(f"GrowingModel head: expected 'linear' or 'sigmoid', which can grow, got {head!r}")
        if any(parametrize.is_parametrized(module) for module in backbone.modules()):
            raise ValueError(
                "GrowingModel: the backbone has parametrized layers, which cannot be locked entry by entry"
            )
        if not 0 < mask_start < float("inf"):
            raise ValueError(f"GrowingModel mask_start: expected a finite number above 0, got {mask_start}")
        super().__init__(backbone, features, setting, head=head, seed=seed)
        self.register_buffer("example", example.detach().clone(), persistent=False)
        self.mask_start = mask_start
        self.masks = nn.ModuleList()  # of the tasks, in their order
        self._finished: list[str] = []
        self._compact: tuple[str, nn.Module] | None = None  # the network of the finished task that was asked last
        head_like = nn.Linear(features, 1).to(device=example.device, dtype=example.dtype)
        found = WidthGraph(Whole(backbone, nn.ModuleList([head_like])), self.example).groups
        own = {name: group for name, group in found.items() if name != "heads.0"}
        self._groups = {name: of_tasks(group, backbone) for name, group in own.items()}
        growing = {name: group for name, group in self._groups.items() if group.fixed is None}
        if not growing:
            reasons = "; ".join(f"{name}: {group.fixed}" for name, group in self._groups.items()) or "it has no layers"
            raise ValueError(f"GrowingModel: no width of the backbone can grow: {reasons}")
        reads = [(name, r.repeat) for name, g in found.items() if name in growing for r in g.readers if is_head(r)]
        self._last: tuple[str, int] | None = reads[0] if reads else None  # the group of the features, and its repeat
        self._used = {name: self._none(name) for name in growing}  # by finished tasks
        self._made = {"groups with masks": [self._groups[name].width for name in growing], **super().architecture()}
        attach(backbone)

    # ---- what it is

    @property
    def groups(self) -> dict[str, Group]:
        """The groups of neurons as wide as they are now, with all heads among the readers of the features; layers are
        named as in this module."""
        heads = tuple(Reader(f"heads.{i}", self._last[1]) for i in range(len(self.heads))) if self._last else ()
        last = self._last[0] if self._last else None
        return {n: replace(g, readers=g.readers + heads) if n == last else g for n, g in self._groups.items()}

    @property
    def widths(self) -> dict[str, int]:
        """Neurons of every group, by its name."""
        return {name: group.width for name, group in self._groups.items()}

    @property
    def running(self) -> tuple[str, ...]:
        """Tasks that have not ended."""
        return tuple(task for task in self.tasks if task not in self._finished)

    def architecture(self) -> dict[str, list[int]]:
        """Shapes of the backbone as it was made, before it grew, and the widths of what may grow."""
        return self._made

    def masks_of(self, task: str) -> TaskMasks:
        """The masks of a task.

        Raises:
            ValueError: for a task that never began.
        """
        if task not in self.task_classes:
            raise ValueError(f"GrowingModel: no task is called {task!r}; there are {', '.join(self.tasks) or 'none'}")
        found = self.masks[self.tasks.index(task)]
        assert isinstance(found, TaskMasks)
        return found

    def used(self, group: str) -> Tensor:
        """Neurons that finished tasks use, and that therefore never change again, ``(m,)`` bool."""
        return self._used[group]

    def shared_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters of the backbone, and the scores of the masks of running tasks."""
        return super().shared_parameters() + [p for p in self.masks.parameters() if p.requires_grad]

    # ---- tasks begin and end

    def add_task(self, task: str, classes: Sequence[int]) -> list[nn.Parameter]:
        """Make a head, and masks over all neurons; see :meth:`pcl.ContinualModel.add_task`."""
        new = super().add_task(task, classes)
        attach(self.heads)
        like = next(self.backbone.parameters())
        masks = TaskMasks({name: ~self._none(name) for name in self._used}, self._used, self.mask_start, like.dtype)
        self.masks.append(masks)
        return [*new, *masks.parameters()]

    def settled(self, task: str) -> bool:
        return task in self._finished

    def task_ended(self, task: str) -> None:
        """Lock what the task uses. Other tasks may learn now which of it they need."""
        if task in self._finished:
            return
        self._finished.append(task)
        self.masks_of(task).settle()
        self._lock(task)
        self._used = {name: used | self.masks_of(task).on(name) for name, used in self._used.items()}
        for other in self.running:
            self.masks_of(other).learn(self._used)

    def _lock(self, task: str) -> None:
        masks, (rows, columns) = self.masks_of(task), self._layers()
        head = f"heads.{self._head_of[task]}"
        for name, module in self.named_modules():
            if name == head or name.startswith("backbone"):
                made, read = rows.get(name), columns.get(name)
                row = None if made is None else masks.on(made)
                column = None if read is None else masks.on(read[0]).repeat_interleave(read[1])
                close(module, row, column)

    def _layers(self) -> tuple[dict[str, str], dict[str, tuple[str, int]]]:
        """By layer, the group whose neurons its rows are; and the group that its columns read, and how often."""
        growing = {name: group for name, group in self.groups.items() if name in self._used}
        rows = {layer: name for name, g in growing.items() for layer in (*g.producers, *g.channelwise)}
        return rows, {r.layer: (name, r.repeat) for name, g in growing.items() for r in g.readers}

    # ---- growth

    def size(self) -> int:
        """Numbers that are trained in backbone and heads, those of all tasks."""
        return sum(p.numel() for part in (self.backbone, self.heads) for p in part.parameters())

    def grow(
        self,
        firefly: Firefly,
        samples: Mapping[str, Sequence[tuple[Tensor, Tensor]]],
        budget: Budget,
        *,
        weights: Mapping[str, float] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> Search:
        """Grow for some running tasks at once, in place, by the candidates that lower sum_t weights_t loss_t most.

        A neuron that no finished task uses may split, if one of these tasks uses it: whoever used it uses both halves.
        One that a finished task uses may be copied, if one of these tasks uses it: those of them that did use the copy
        in its place (Eq. 5.9). New neurons are used by these tasks alone.

        Args:
            firefly: how candidates are made, trained and scored.
            samples: by task, batches ``(x, y)`` to do so on, y class numbers; they are gone through in turn.
            budget: how much may be gained.
            weights: by task; the mean if None.
            optimizer: its parameters and state follow.

        Returns:
            What was found: which candidates were chosen, their scores, and the predicted fall of the objective.

        Raises:
            ValueError: for no samples, a task that has ended or never begun, weights of other tasks, or new layers.
        """
        tasks = tuple(samples)
        for task in tasks:
            if task not in self.running:
                raise ValueError(f"GrowingModel.grow: task {task!r} does not run; expected some of {self.running}")
        if not tasks or not all(samples.values()):
            raise ValueError("GrowingModel.grow: expected at least one task and a batch (x, y) of each, got none")
        refuse_new_layers("GrowingModel.grow", firefly, budget)
        share = dict.fromkeys(tasks, 1 / len(tasks)) if weights is None else weights
        if set(share) != set(tasks):
            raise ValueError(f"GrowingModel.grow: expected weights of {list(tasks)}, got some of {list(share)}")
        masks = {task: {name: self.masks_of(task).on(name) for name in self._used} for task in tasks}
        using = {name: torch.stack([masks[task][name] for task in tasks]).any(dim=0) for name in self._used}

        def objective(evaluate: Callable[..., Any], batch: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
            total = torch.zeros((), device=self.example.device)
            for task, (x, y) in batch.items():
                logits = evaluate(x, masks=masks[task])[self._head_of[task]]
                total = total + share[task] * self.logit_losses(logits, y, task).mean()
            return total

        detach(self)
        try:
            whole = Whole(self.backbone, self.heads)
            graph = WidthGraph(whole, self.example)
            candidates = Candidates(
                graph,
                groups=list(self._used),
                new=firefly.new,
                split=firefly.split,
                mirror={name: used.to(self.example.dtype) * 2 - 1 for name, used in self._used.items()},
                allowed={name: using[name] & (used | firefly.split) for name, used in self._used.items()},
                step=firefly.step,
                seed=firefly.seed,
            )
            with evaluation_mode(whole):
                found = firefly.search(graph, candidates, together(samples), objective, budget)
            rebuild(whole, graph.groups, found.plan, optimizer)
            for name, gain in found.plan.items():
                self._take(name, gain, tasks, optimizer)
        finally:
            attach(self.backbone)
            attach(self.heads)
            for task in self._finished:
                self._lock(task)
        self._compact = None
        return found

    def _take(
        self, group: str, gain: GroupGrowth, growing: Sequence[str], optimizer: torch.optim.Optimizer | None
    ) -> None:
        """A group has grown: who uses what of it."""
        m, device = self._groups[group].width, self.example.device
        split, copied = gain.split.to(device), gain.copied.to(device)
        parents = torch.cat([torch.arange(m, device=device), split, split.new_full((len(copied) + gain.new,), -1)])
        self._set_width(group, len(parents))
        for task in self.tasks:
            masks, grows = self.masks_of(task), task in growing
            on, settled = masks.on(group), torch.zeros(len(parents), dtype=torch.bool, device=device)
            of_copies, of_new = on[copied] & grows, torch.full((gain.new,), grows, device=device)
            stay = on.clone()
            stay[copied] &= not grows
            settled[copied] = grows
            masks.take(group, parents, torch.cat([stay, on[split], of_copies, of_new]), settled, optimizer)
        known = parents.clamp(min=0)
        self._used[group] = self._used[group][known] & (parents >= 0)

    # ---- forward

    @property
    def by_task(self) -> bool:
        return True

    def rows(self, x: Tensor, names: Sequence[str], task: Tensor | None = None) -> Owned:
        return Owned(x, tuple(names), task)

    def encode(self, x: Any) -> Tensor:
        """Features ``(B, features)`` of samples, each by the neurons of its own task.

        Raises:
            TypeError: for samples of which nobody says whose they are.
        """
        if not isinstance(x, Owned) or not x.names:
            raise TypeError(
                f"GrowingModel.encode: expected samples with their task, as rows(x, (task,)) gives them, got "
                f"{type(x).__name__}; which neurons they run through depends on it"
            )
        masks = {group: self._mask(group, x) for group in self._used}
        gates = [
            (Reader(reader.layer.removeprefix("backbone."), reader.repeat), mask)
            for group, mask in masks.items()
            if mask is not None
            for reader in self._groups[group].readers
        ]
        tasks, rows = [self.masks_of(name) for name in x.names], self._layers()[0]
        rest = channels_at_rest(self.backbone, rows, self._used, tasks, locked=bool(self._finished))
        with gated(self.backbone, gates), resting(self.backbone, rest):
            features: Tensor = self.backbone(x.x)
        mask = masks[self._last[0]] if self._last else None
        if mask is None or self._last is None:
            return features
        return features * mask.to(features.dtype).repeat_interleave(self._last[1], dim=-1)

    def _mask(self, group: str, x: Owned) -> Tensor | None:
        """``(m,)``, or ``(B, m)`` where the samples are of several tasks; None where all use all neurons."""
        tasks = [self.masks_of(name) for name in x.names]
        if all(masks.whole(group) for masks in tasks):
            return None
        if x.task is None:
            return tasks[0].mask(group)
        return torch.stack([masks.mask(group) for masks in tasks])[x.task]

    def forward(self, x: Tensor, task: str) -> Tensor:
        """Logits ``(B, classes of the task)``; those of a task that has ended, in evaluation mode, by its own network,
        with the same bits for ever."""
        if self.training or not self.settled(task):
            return super().forward(x, task)
        if self._compact is None or self._compact[0] != task:
            self._compact = (task, self.task_network(task))
        logits: Tensor = self._compact[1](x)
        return logits

    def task_network(self, task: str) -> nn.Module:
        """The plain network ``x -> logits`` of the neurons that a task uses: a copy without masks and locks, in
        evaluation mode. That of a task that has ended is the same to the bit whenever it is made."""
        keep = {name: self.masks_of(task).on(name).nonzero()[:, 0] for name in self._used}
        groups = {name: group for name, group in self.groups.items() if name in keep}
        return compact(self.backbone, self.heads, self._head_of[task], groups, keep)

    # ---- state

    def get_extra_state(self) -> dict[str, Any]:
        return {"tasks": list(self.tasks), "finished": list(self._finished), "widths": self.widths}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Be as wide as the model was that gave ``state``, before its tensors are loaded.

        Raises:
            ValueError: if that model had other tasks or groups.
        """
        for what, mine in (("tasks", list(self.tasks)), ("groups", list(self.widths))):
            theirs = list(state["tasks"] if what == "tasks" else state["widths"])
            if mine != theirs:
                raise ValueError(f"GrowingModel: the state is of a model with {what} {theirs}, this one has {mine}")
        for group, width in state["widths"].items():
            self._set_width(group, width)
        rows, columns = self._layers()
        for layer in {*rows, *columns}:
            read = columns.get(layer)
            made = self._groups[rows[layer]].width if layer in rows else None
            resize(self.get_submodule(layer), made, None if read is None else self._groups[read[0]].width * read[1])
        for masks in self.masks:
            assert isinstance(masks, TaskMasks)
            for group in self._used:
                masks.resize(group, self._groups[group].width)
        self._finished = list(state["finished"])
        for task in self.tasks:
            self.masks_of(task).scores.requires_grad_(not self.settled(task))
        self._compact = None

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """See ``torch.nn.Module``; the model may have been made smaller than the one of the state."""
        found = super().load_state_dict(state_dict, strict, assign)
        for group in self._used:
            ended = [self.masks_of(task).on(group) for task in self._finished]
            self._used[group] = torch.stack([self._none(group), *ended]).any(dim=0)
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GrowingModel":
        self._compact = None
        super()._apply(fn, recurse)
        self._used = {name: used.to(self.example.device) for name, used in self._used.items()}
        return self

    def _set_width(self, group: str, width: int) -> None:
        self._groups[group] = replace(self._groups[group], width=width)
        if self._last is not None and self._last[0] == group:
            self.features = width * self._last[1]

    def _none(self, group: str) -> Tensor:
        return torch.zeros(self._groups[group].width, dtype=torch.bool, device=self.example.device)
