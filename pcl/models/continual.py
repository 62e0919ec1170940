"""A shared backbone with heads that appear when their tasks do."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl import parts
from pcl.gradients.dense import DenseModel
from pcl.models.backbones import MLP
from pcl.models.carried import CarriedState, Stateful, Window
from pcl.models.heads import CosineHead, Head, SigmoidHead, head_of
from pcl.models.modes import evaluation_mode
from pcl.parts import is_plain
from pcl.randomness import seeded

Setting = Literal["task", "class"]


class ContinualModel(nn.Module):
    """Backbone f(x; theta) and heads (Lyu et al., arXiv 2401.01054, Sec. III-A).

    Two settings:

    - ``"task"`` (task-incremental): one head per task; the task of a sample is known in training and testing,
      and only the classes of its task compete.
    - ``"class"`` (class-incremental): one growing classifier over all classes seen so far, all of which
      compete; two tasks that share a class share its column.

    Heads are made by :meth:`add_task`. Their initial values depend on ``seed`` and the task's name alone, never
    on when the task appears.

    Args:
        backbone: module from a batch x to features ``(B, features)``.
        features: width of the backbone's output.
        setting: ``"task"`` or ``"class"``.
        head: ``"linear"``; ``"cosine"``, or a :class:`pcl.CosineHead`, for logits by angle and margins in training;
            ``"sigmoid"`` for classes that are learned one by one, see :class:`pcl.models.heads.SigmoidHead`.
        carry: for streams that never end: the batches of every stream are consecutive windows of so many parallel
            sequences, as :class:`pcl.Windows` cuts them, and the backbone goes on in each where it stopped
            (truncated backpropagation through time). It must take and return its state, see
            :class:`pcl.models.carried.Stateful`. Each stream has a state of its own, which starts empty in every
            epoch; stored and test samples start from an empty one and leave no trace.
        seed: for the initial values of the heads.

    Raises:
        TypeError: if a state is to be carried and the backbone has none.
        ValueError: for an unknown setting or head, or carry < 1.
    """

    def __init__(
        self,
        backbone: nn.Module,
        features: int,
        setting: Setting = "task",
        *,
        head: Head | CosineHead | SigmoidHead = "linear",
        carry: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if setting not in ("task", "class"):
            raise ValueError(f"setting: expected 'task' or 'class', got {setting!r}")
        if carry is not None and carry < 1:
            raise ValueError(f"carry: expected the number of parallel sequences, at least 1, got {carry}")
        if carry is not None and not hasattr(backbone, "initial_state"):
            raise TypeError(
                f"carry: {type(backbone).__name__} has no initial_state(batch), so that nothing can be carried; take a "
                "backbone that gives its state, such as pcl.LonghornBackbone, or leave carry out"
            )
        self.backbone = backbone
        self.features = features
        self.setting = setting
        self.head = head_of(head)
        self.carry = carry
        self.heads = nn.ModuleList()
        self.states = nn.ModuleList()  # of the tasks, in their order, if they carry some
        self.task_classes: dict[str, tuple[int, ...]] = {}
        self._seed = seed
        self._head_of: dict[str, int] = {}  # task setting: which head is whose
        self._seen: list[int] = []  # class setting: classes in the order of the columns
        self._numbers: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}  # see _on_device

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks in the order in which they appeared."""
        return tuple(self.task_classes)

    def architecture(self) -> dict[str, list[int]]:
        """Shapes of what the backbone holds, by name: what must be the same where a checkpoint is loaded."""
        return {name: list(value.shape) for name, value in self.backbone.state_dict().items()}

    def shared_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters theta of the backbone, on which tasks may conflict."""
        return parts.trainable(self.backbone)

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of all heads, in the order in which they were made."""
        return parts.parameters(self.heads)

    def add_task(self, task: str, classes: Sequence[int]) -> list[nn.Parameter]:
        """Make what the task needs and does not have yet; return the new parameters (none, perhaps).

        Raises:
            ValueError: if the task was added before.
        """
        if task in self.task_classes:
            raise ValueError(f"task {task!r} was added before; task names are unique")
        new = tuple(classes) if self.setting == "task" else tuple(c for c in classes if c not in self._seen)
        self.task_classes[task] = tuple(classes)
        if self.carry is not None:
            self.states.append(CarriedState(cast(Stateful, self.backbone), self.carry))
        if not new:
            return []
        like = parts.like(self.backbone)
        with seeded(self._seed, "head", task):
            make = nn.Linear if self.head is None else self.head.make
            head = make(self.features, len(new)).to(device=like.device, dtype=like.dtype)
        self._head_of[task] = len(self.heads)
        self._seen += new if self.setting == "class" else ()
        self.heads.append(head)
        return list(head.parameters())

    def check_input(self, x: Tensor, task: str) -> None:
        """Refuse samples ``(B, ...)`` that the backbone does not turn into features ``(B, features)``.

        Raises:
            ValueError: naming the task, the shape that came and the one expected.
        """
        try:
            with torch.no_grad(), evaluation_mode(self.backbone):
                found = tuple(self.backbone(x).shape)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"task {task!r}: the backbone refuses samples of shape {tuple(x.shape[1:])}: {error}"
            ) from error
        if found != (len(x), self.features):
            raise ValueError(
                f"task {task!r}: the backbone should turn {len(x)} samples into features of shape "
                f"({len(x)}, {self.features}), it gave {found}; set `features` to its width, or flatten its output"
            )

    def restart(self, task: str) -> None:
        """Empty the state that the task carries, if it does: its sequences begin anew."""
        if self.carry is not None:
            self._carried(task).restart()

    @property
    def by_task(self) -> bool:
        """Whether :meth:`encode` has to know whose samples it gets, so that what it takes is more than a tensor."""
        return self.carry is not None

    def settled(self, task: str) -> bool:
        """Whether nothing that the task uses will change any more, so that its samples teach nothing."""
        return False

    def task_ended(self, task: str) -> None:
        """The stream of the task has ended. Here nothing follows from that."""

    def window(self, x: Tensor, task: str) -> Any:
        """What :meth:`encode` takes for the next batch of a stream: a window to go on with, where state is carried."""
        return self.rows(x, (task,)) if self.carry is None else Window(x, task)

    def rows(self, x: Tensor, names: Sequence[str], task: Tensor | None = None) -> Any:
        """What :meth:`encode` takes for samples of these tasks, which continue nothing: x alone, unless tasks have
        parts of the backbone for themselves.

        Args:
            names: the tasks that may occur.
            task: ``(B,)`` int64, the index into ``names`` of every sample's task; None where there is one.
        """
        return x

    def encode(self, x: Any) -> Tensor:
        """Features ``(B, features)`` of what :meth:`rows` or :meth:`window` gave; of a window, from the state of its
        stream on, which moves in training mode."""
        if isinstance(x, Window):
            return self._carried(x.task).run(cast(Stateful, self.backbone), x.x)
        features: Tensor = self.backbone(x)
        return features

    def _carried(self, task: str) -> CarriedState:
        state = self.states[self.tasks.index(task)]
        assert isinstance(state, CarriedState)
        return state

    @property
    def shares_columns(self) -> bool:
        """Whether the loss of a sample does not depend on its task."""
        return self.setting == "class" and not isinstance(self.head, CosineHead)

    def dense(self) -> DenseModel | None:
        """The layers whose logits are those of every sample, if the backbone is a perceptron, the heads are linear, no
        two of them share memory and nobody listens to any of them; else None."""
        if self.by_task or not self.shares_columns or self.head is not None or not is_plain(self.backbone, MLP):
            return None
        layers, heads = cast(MLP, self.backbone).linear_layers(), cast(list[nn.Linear], list(self.heads))
        if not layers or not all(is_plain(head, nn.Linear) and head.bias is not None for head in heads):
            return None
        own = [p for layer in (*layers, *heads) for p in layer._parameters.values() if p is not None]
        return DenseModel(layers, heads) if len({p.data_ptr() for p in own}) == len(own) else None

    def columns(self, task: str) -> tuple[int, ...]:
        """The classes that the columns of ``forward(x, task)`` stand for."""
        return self.task_classes[task] if self.setting == "task" else tuple(self._seen)

    def column_of(self, y: Tensor, task: str) -> Tensor:
        """The column ``(B,)`` of ``forward(x, task)`` in which every one of the class numbers y ``(B,)`` stands."""
        columns = self.columns(task)
        first, count = columns[0], len(columns)
        if columns == tuple(range(first, first + count)):
            at = (y - first if first else y).to(torch.int64)
            return at.clamp(0, count - 1)  # a label that is yet to be refused must not lead out of the table
        return self.hit(y, task).to(torch.int8).argmax(dim=1)

    def forward(self, x: Tensor, task: str) -> Tensor:
        """Logits ``(B, len(columns(task)))`` of a batch of one task."""
        return self.logits(self.encode(self.rows(x, (task,))), task)

    def logits(self, features: Tensor, task: str) -> Tensor:
        """Logits of what the backbone gave, ``(B, features)``."""
        if self.setting == "task":
            logits: Tensor = self.heads[self._head_of[task]](features)
            return logits
        found = [head(features) for head in self.heads]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def mixed_logits(self, features: Tensor, task: Tensor, names: Sequence[str]) -> Tensor:
        """:meth:`logits` of a batch that mixes tasks, every sample in the columns of its own task, ``(B, columns)``.

        In the task setting there are as many columns as the widest of these tasks has; what stands in those that a
        sample's own task does not have means nothing.

        Args:
            task, names: as for :meth:`mixed_losses`.
        """
        if self.setting == "class":
            return self.logits(features, names[0])
        logits = torch.cat([self.logits(features, name) for name in names], dim=1)
        widths = [len(self.task_classes[name]) for name in names]
        first = self._on_device(
            tuple(itertools.accumulate(widths[:-1], initial=0)), task.device
        )  # column of every task
        columns = first[task][:, None] + torch.arange(max(widths), device=task.device)
        return logits.gather(1, columns.clamp(max=logits.shape[1] - 1))

    def predict(self, x: Tensor, task: str) -> Tensor:
        """The most likely class ``(B,)`` of every sample, as class numbers."""
        return self._on_device(self.columns(task), x.device)[self(x, task).argmax(dim=1)]

    def losses(self, x: Tensor, y: Tensor, task: str) -> Tensor:
        """Cross-entropy ``(B,)`` of every sample of a batch of one task, or what the head has in place of it; y holds
        class numbers."""
        return self.feature_losses(self.encode(self.rows(x, (task,))), y, task)

    def feature_losses(self, features: Tensor, y: Tensor, task: str) -> Tensor:
        """:meth:`losses` of what the backbone gave."""
        return self.logit_losses(self.logits(features, task), y, task)

    def logit_losses(self, logits: Tensor, y: Tensor, task: str) -> Tensor:
        """:meth:`losses` of what :meth:`logits` gave."""
        if self.head is None:
            return F.cross_entropy(_full(logits), self.column_of(y, task), reduction="none")
        hit = self.hit(y, task)
        if isinstance(self.head, CosineHead):
            logits = self.head.with_margins(logits, hit, self._owned([task], y.device)[0])
        return self._column_losses(logits, hit)

    def mixed_losses(self, x: Tensor, y: Tensor, task: Tensor, names: Sequence[str]) -> Tensor:
        """:meth:`losses` ``(B,)`` of a batch that mixes tasks, as the rehearsal stream does.

        In the task setting each sample competes among the classes of its own task alone.

        Args:
            task: ``(B,)`` int64, the index into ``names`` of every sample's task.
            names: the tasks that may occur; heads of others are left alone.
        """
        return self.mixed_feature_losses(self.encode(self.rows(x, names, task)), y, task, names)

    def mixed_feature_losses(self, features: Tensor, y: Tensor, task: Tensor, names: Sequence[str]) -> Tensor:
        """:meth:`mixed_losses` of what the backbone gave."""
        if self.shares_columns:
            return self.feature_losses(features, y, names[0])
        if self.setting == "class":
            assert isinstance(self.head, CosineHead)
            logits, hit = self.logits(features, names[0]), self.hit(y, names[0])
            logits = self.head.with_margins(logits, hit, self._owned(names, y.device)[task])
            return self._column_losses(logits, hit)
        logits = torch.cat([self.heads[self._head_of[name]](features) for name in names], dim=1)
        columns = [(i, c) for i, name in enumerate(names) for c in self.task_classes[name]]
        owner, number = (self._on_device(part, task.device) for part in zip(*columns, strict=True))
        own = task[:, None] == owner  # (B, columns)
        hit = own & (y[:, None] == number)
        if isinstance(self.head, CosineHead):
            logits = self.head.with_margins(logits, hit, own)
        return self._column_losses(logits.masked_fill(~own, -torch.inf), hit)

    def _column_losses(self, logits: Tensor, hit: Tensor) -> Tensor:
        """Loss ``(B,)`` of the column that ``hit`` ``(B, columns)`` marks; under a softmax of the first where it marks
        none, which only labels that have been refused, or will be, come to."""
        logits = _full(logits)
        if isinstance(self.head, SigmoidHead):
            return self.head.losses(logits, hit)
        return F.cross_entropy(logits, hit.to(torch.int8).argmax(dim=1), reduction="none")

    def hit(self, y: Tensor, task: str) -> Tensor:
        """Whether a column is the sample's class, ``(B, columns)``."""
        return y[:, None] == self._on_device(self.columns(task), y.device)

    def class_hit(self, y: Tensor, task: str) -> Tensor:
        """Whether a class of the task, in the order in which they were declared, is the sample's, ``(B, classes)``."""
        return y[:, None] == self._on_device(self.task_classes[task], y.device)

    def _owned(self, names: Sequence[str], device: torch.device) -> Tensor:
        """1 where a column, of those all tasks share, is a class of the task, else 0; ``(tasks, columns)``."""
        owned = [int(c in self.task_classes[name]) for name in names for c in self.columns(name)]
        return self._on_device(tuple(owned), device).view(len(names), -1)

    def _on_device(self, numbers: tuple[int, ...], device: torch.device) -> Tensor:
        """``numbers`` as a tensor on ``device``, made once: making it would wait for a GPU."""
        if (numbers, device) not in self._numbers:
            self._numbers[numbers, device] = torch.tensor(numbers, device=device)
        return self._numbers[numbers, device]


def _full(logits: Tensor) -> Tensor:
    """In float32 at least: under autocast, a mean of losses in bfloat16 would have 8 bits."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
