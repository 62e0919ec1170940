"""The named scenarios, with the settings that their experiments use."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from pcl.data.images import ImageData, load_digits
from pcl.data.load import load_images
from pcl.models.backbones import MLP, Normalize, ResNet18
from pcl.models.longhorn.backbone import LonghornBackbone
from pcl.models.longhorn.config import LonghornConfig
from pcl.streams.cuts import Blurring, Cut, Drawn, Grouped, Split, Thinned
from pcl.streams.domains import Permuted, Rotated
from pcl.streams.scenario import Scenario
from pcl.streams.task_free import TaskFree
from pcl.streams.timeline import TimelineKind

Times = Literal["random", "serial", "together", "iid"]
"""When the tasks of a run come: the kinds of :class:`pcl.Timeline`, or all samples in one stream in random order."""


@dataclass(frozen=True, kw_only=True)
class ScenarioSpec:
    """What belongs to a scenario's name.

    Attributes:
        summary: one line for people.
        file: name of the image set, see :func:`pcl.data.load.load_images`; None for data that comes with a package.
        image_size: height and width to which images of a folder are brought.
        cut: makes tasks of the data.
        timeline: when they run where a run does not say; a kind, or the first steps.
        blur: all tasks in one stream without boundaries, with transitions of that width, see :class:`pcl.TaskFree`;
            None for one stream per task.
        backbone: makes the network from the data.
        features: width of what it gives.
        batch_size, epochs, memory_per_class, lr, edit_alpha: defaults of a run.
        name: what random draws are named after, if it is not the name under which it is listed.
        label_set: number of the draw, whatever a run says; None where the run says it.
        fingerprint: of what a run must come to; None for anything.
    """

    summary: str
    file: str | None
    cut: Cut
    timeline: TimelineKind | tuple[int, ...] = "random"
    blur: float | None = None
    backbone: Callable[[ImageData], nn.Module]
    features: int
    batch_size: int
    epochs: int = 1
    memory_per_class: int
    lr: float
    edit_alpha: float = 1e-5
    name: str | None = None
    label_set: int | None = None
    fingerprint: str | None = None
    image_size: int | None = None

    def load(self, data_root: Path) -> ImageData:
        """The data; for errors see :func:`pcl.data.load.load_images`."""
        if self.file is None:
            return load_digits()
        return load_images(self.file, data_root, self.image_size)

    def widened(self, width: int) -> "ScenarioSpec":
        """The same with a ResNet-18 whose first stage has ``width`` channels, 64 is that of its paper; or with an MLP
        whose first layer has ``width`` neurons and the others as many in proportion.

        Raises:
            ValueError: if the scenario's network is another one.
        """
        if isinstance(self.backbone, MLPFor):
            first = self.backbone.hidden[0]
            hidden = tuple(max(1, round(neurons * width / first)) for neurons in self.backbone.hidden)
            return replace(self, backbone=MLPFor(hidden), features=hidden[-1])
        if not isinstance(self.backbone, ResNetFor):
            kind = type(self.backbone).__name__
            raise ValueError(f"width: it is that of a ResNet or an MLP, and this scenario has a {kind}")
        return replace(self, backbone=ResNetFor(width), features=8 * width)

    def build(
        self,
        listed_as: str,
        data: ImageData,
        *,
        batch_size: int | None = None,
        epochs: int | None = None,
        label_set: int = 0,
        timeline: Times | Sequence[int] | None = None,
        timeline_number: int = 0,
        share: float = 1.0,
    ) -> Scenario | TaskFree:
        """The scenario on ``data``; None stands for the default.

        Args:
            timeline: ``"iid"``: the samples of all tasks in one stream in random order, an upper bound without tasks;
                ``"together"`` is one with tasks, all of them from start to end.
            share: of the training images of every task; below 1 it is the scenario in miniature.

        Raises:
            ValueError: as :meth:`pcl.Scenario.build`.
        """
        epochs = self.epochs if epochs is None else epochs
        blur = math.inf if timeline == "iid" else self.blur
        times = self.timeline if timeline is None or timeline == "iid" else timeline
        if share < 1 and not isinstance(times, str):
            times = "random"  # steps that were stated for all images would leave gaps between fewer
        scenario = Scenario.build(
            self.name or listed_as,
            data,
            self.cut if share >= 1 else Thinned(self.cut, share),
            batch_size=self.batch_size if batch_size is None else batch_size,
            epochs=epochs if blur is None else 1,
            label_set=label_set if self.label_set is None else self.label_set,
            timeline=times,
            timeline_number=timeline_number,
        )
        return scenario if blur is None else TaskFree(scenario, blur, epochs)


@dataclass(frozen=True)
class MLPFor:
    """Makes an MLP that fits the images."""

    hidden: tuple[int, ...]

    def __call__(self, data: ImageData) -> nn.Module:
        return MLP(data.x_train[0].numel(), self.hidden)


@dataclass(frozen=True)
class ResNetFor:
    """Makes a ResNet-18 that fits the images; coloured ones it normalises by the statistics of CIFAR-100, to which
    those of other photographs are close."""

    width: int

    def __call__(self, data: ImageData) -> nn.Module:
        channels = data.x_train.shape[1]
        network = ResNet18(channels, self.width)
        if channels != 3:
            return network
        return nn.Sequential(Normalize((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)), network)


@dataclass(frozen=True)
class LonghornFor:
    """Makes a Longhorn that reads the images pixel by pixel, normalised by a mean and a deviation."""

    width: int
    depth: int
    mean: float
    std: float

    def __call__(self, data: ImageData) -> nn.Module:
        backbone = LonghornBackbone(LonghornConfig(self.width, self.depth), data.x_train.shape[1])
        return nn.Sequential(Normalize((self.mean,), (self.std,)), backbone)


def _parallel(
    summary: str, file: str | None, tasks: int, low: int, high: int, overlap: bool,
    backbone: Callable[[ImageData], nn.Module], features: int,
    batch_size: int, epochs: int, memory_per_class: int, lr: float, edit_alpha: float,
) -> ScenarioSpec:  # fmt: skip
    """Random label sets (tasks, low, high, overlap: see :class:`pcl.cuts.Drawn`) on random timelines."""
    return ScenarioSpec(
        summary=summary, file=file, cut=Drawn(tasks, low, high, overlap), backbone=backbone, features=features,
        batch_size=batch_size, epochs=epochs, memory_per_class=memory_per_class, lr=lr, edit_alpha=edit_alpha,
    )  # fmt: skip


PARALLEL: dict[str, ScenarioSpec] = {
    "ps-digits": _parallel(
        "scikit-learn's 1,797 handwritten digits, 5 tasks of 2-4 classes",
        None, 5, 2, 4, True, MLPFor((128, 64)), 64, 16, 4, 5, 3e-3, 1e-5,
    ),
    "ps-mnist": _parallel(
        "MNIST, 5 tasks of 2-4 classes",
        "mnist", 5, 2, 4, True, MLPFor((128, 64)), 64, 128, 1, 5, 3e-3, 1e-5,
    ),
    "ps-fashion-mnist": _parallel(
        "Fashion-MNIST, 5 tasks of 2-4 classes",
        "fashion_mnist", 5, 2, 4, True, MLPFor((128, 64)), 64, 128, 1, 5, 3e-3, 1e-5,
    ),
    "ps-emnist": _parallel(
        "EMNIST ByClass, 5 tasks of 3-15 of its 62 classes (EMGD, Sec. VI-A)",
        "emnist_byclass", 5, 3, 15, False, MLPFor((128, 64)), 64, 128, 1, 5, 3e-3, 1e-5,
    ),
    "ps-cifar100": _parallel(
        "CIFAR-100, 20 tasks of 3-15 classes, reduced ResNet-18 (EMGD, Sec. VI-A)",
        "cifar100", 20, 3, 15, False, ResNetFor(20), 160, 128, 1, 30, 4e-4, 1e-5,
    ),
    "ps-tiny-imagenet": replace(
        _parallel(
            "Tiny-ImageNet, 20 tasks of 6-20 of its 200 classes, reduced ResNet-18 (EMGD, Sec. VI-A)",
            "tiny_imagenet", 20, 6, 20, False, ResNetFor(20), 160, 128, 1, 15, 5e-4, 1e-5,
        ),
        image_size=64,
    ),
    "ps-sequential-digits": _parallel(
        "scikit-learn's digits read pixel by pixel, 64 steps, Longhorn, 5 tasks of 2-4 classes",
        None, 5, 2, 4, True, LonghornFor(24, 2, 0.31, 0.38), 24, 16, 8, 5, 1e-2, 1e-5,
    ),
    "ps-sequential-mnist": _parallel(
        "MNIST read pixel by pixel, 784 steps, Longhorn, 5 tasks of 2-4 classes",
        "mnist", 5, 2, 4, True, LonghornFor(32, 2, 0.1307, 0.3081), 32, 64, 1, 5, 1e-2, 1e-5,
    ),
}  # fmt: skip

# GMED's protocol (Sec. 5.1): batches of 10 beside 10 from a memory of 500, one epoch, an MLP of 400-400. The rates are
# for Adam, like those above; the paper has plain SGD at 0.05 (`--optimizer sgd --lr 0.05 --method sum`).
ONLINE_MLP: dict[str, Any] = {"backbone": MLPFor((400, 400)), "features": 400, "batch_size": 10, "lr": 1e-3}

# Split-CIFAR as in EMGD, Table V: 30 samples of every class in memory.
CIFAR: dict[str, Any] = {
    "backbone": ResNetFor(20), "features": 160, "batch_size": 128, "memory_per_class": 30, "lr": 4e-4,
}  # fmt: skip

OTHERS: dict[str, ScenarioSpec] = {
    "split-digits": ScenarioSpec(
        summary="the same digits, 5 tasks of 2 classes one after the other",
        file=None, cut=Split(5), timeline="serial",
        backbone=MLPFor((128, 64)), features=64, batch_size=16, epochs=4, memory_per_class=5, lr=3e-3,
    ),
    "rotated-digits": ScenarioSpec(
        summary="the same digits, 4 tasks of 300 of them, each turned by an angle of its own",
        file=None, cut=Rotated(4, images=300, degrees=120.0), timeline="serial",
        backbone=MLPFor((128, 64)), features=64, batch_size=16, epochs=2, memory_per_class=5, lr=3e-3,
    ),
    "task-free-digits": ScenarioSpec(
        summary="the same digits, 5 tasks of 2 classes that fade into each other, as one stream without boundaries",
        file=None, cut=Split(5), timeline="serial", blur=0.25,
        backbone=MLPFor((128, 64)), features=64, batch_size=16, epochs=1, memory_per_class=5, lr=3e-3,
    ),
    "split-mnist": ScenarioSpec(
        summary="MNIST, 5 tasks of 2 classes and 1,000 images one after the other (GMED, Sec. 5.1)",
        file="mnist", cut=Split(5, images=1000), timeline="serial", memory_per_class=50, **ONLINE_MLP,
    ),
    "split-fashion-mnist": ScenarioSpec(
        summary="Fashion-MNIST, 5 tasks of 2 classes and 1,000 images one after the other",
        file="fashion_mnist", cut=Split(5, images=1000), timeline="serial", memory_per_class=50, **ONLINE_MLP,
    ),
    "permuted-mnist": ScenarioSpec(
        summary="MNIST, 10 tasks of the same 950 images with permuted pixels (GMED, Sec. 5.1)",
        file="mnist", cut=Permuted(10, images=950), timeline="serial", memory_per_class=5, **ONLINE_MLP,
    ),
    "rotated-mnist": ScenarioSpec(
        summary="MNIST, 20 tasks of 950 images turned by ever larger angles (GMED, Sec. 5.1)",
        file="mnist", cut=Rotated(20, images=950, test_images=1000), timeline="serial",
        memory_per_class=2, **ONLINE_MLP,
    ),
    "task-free-mnist": ScenarioSpec(
        summary="MNIST, 5,000 images as one stream in which 5 tasks of 2 classes fade into each other",
        file="mnist", cut=Split(5, images=1000), timeline="serial", blur=0.25, memory_per_class=50, **ONLINE_MLP,
    ),
    "split-cifar10": ScenarioSpec(
        summary="CIFAR-10, 5 tasks of 2 classes one after the other, reduced ResNet-18 (EMGD, Sec. VI-K)",
        file="cifar10", cut=Split(5), timeline="serial", **CIFAR,
    ),
    "split-cifar100": ScenarioSpec(
        summary="CIFAR-100, 20 tasks of 5 classes one after the other, reduced ResNet-18 (EMGD, Sec. VI-K)",
        file="cifar100", cut=Split(20), timeline="serial", **CIFAR,
    ),
    "split-mini-imagenet": ScenarioSpec(
        summary="mini-ImageNet, 20 tasks of 5 classes one after the other, reduced ResNet-18 (GMED, Sec. 5.1)",
        file="mini_imagenet", image_size=84, cut=Split(20), timeline="serial",
        backbone=ResNetFor(20), features=160, batch_size=10, memory_per_class=100, lr=1e-3,
    ),
    "omniglot": ScenarioSpec(
        summary="Omniglot, its 50 alphabets one after the other, 14 to 55 characters each, reduced ResNet-18",
        file="omniglot", image_size=28, cut=Grouped(), timeline="serial",
        backbone=ResNetFor(20), features=160, batch_size=32, epochs=10, memory_per_class=2, lr=1e-3,
    ),
    "blurring-cifar100": ScenarioSpec(
        summary="CIFAR-100, 9 parallel tasks of 20 classes, half of them shared with each neighbour (EMGD, Sec. VI-J)",
        file="cifar100", cut=Blurring(9, 20, 10), **CIFAR,
    ),
}  # fmt: skip

SCENARIOS = {**PARALLEL, **OTHERS}
