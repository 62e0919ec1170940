"""The named scenarios, with the settings that their experiments use."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from pcl.data.images import ImageData, load_digits, load_npz
from pcl.models.backbones import MLP, Normalize, ResNet18
from pcl.models.longhorn.backbone import LonghornBackbone
from pcl.models.longhorn.config import LonghornConfig


@dataclass(frozen=True)
class ScenarioSpec:
    """What belongs to a scenario's name.

    Attributes:
        summary: one line for people.
        file: stem of the npz file under the data root; None for data that comes with a package.
        tasks, low, high, overlap: how many label sets of which size; see ``draw_label_sets``.
        backbone: makes the network from the data.
        batch_size, epochs, memory_per_class, lr, edit_alpha: defaults of a run.
    """

    summary: str
    file: str | None
    tasks: int
    low: int
    high: int
    overlap: bool
    backbone: Callable[[ImageData], nn.Module]
    features: int
    batch_size: int
    epochs: int
    memory_per_class: int
    lr: float
    edit_alpha: float

    def load(self, data_root: Path) -> ImageData:
        """The data; for errors see :func:`pcl.data.images.load_npz`."""
        if self.file is None:
            return load_digits()
        return load_npz(data_root / f"{self.file}.npz", download_name=self.file)


def _mlp(*hidden: int) -> Callable[[ImageData], nn.Module]:
    return lambda data: MLP(data.x_train[0].numel(), hidden)


def _resnet(width: int) -> Callable[[ImageData], nn.Module]:
    return lambda data: nn.Sequential(
        Normalize((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)), ResNet18(data.x_train.shape[1], width)
    )


def _longhorn(width: int, depth: int, mean: float, std: float) -> Callable[[ImageData], nn.Module]:
    return lambda data: nn.Sequential(
        Normalize((mean,), (std,)), LonghornBackbone(LonghornConfig(width, depth), data.x_train.shape[1])
    )


SCENARIOS: dict[str, ScenarioSpec] = {
    "ps-digits": ScenarioSpec(
        "scikit-learn's 1,797 handwritten digits, 5 tasks of 2-4 classes",
        None, 5, 2, 4, True, _mlp(128, 64), 64, 16, 4, 5, 3e-3, 1e-5,
    ),
    "ps-mnist": ScenarioSpec(
        "MNIST, 5 tasks of 2-4 classes",
        "mnist", 5, 2, 4, True, _mlp(128, 64), 64, 128, 1, 5, 3e-3, 1e-5,
    ),
    "ps-fashion-mnist": ScenarioSpec(
        "Fashion-MNIST, 5 tasks of 2-4 classes",
        "fashion_mnist", 5, 2, 4, True, _mlp(128, 64), 64, 128, 1, 5, 3e-3, 1e-5,
    ),
    "ps-emnist": ScenarioSpec(
        "EMNIST ByClass, 5 tasks of 3-15 of its 62 classes (EMGD, Sec. VI-A)",
        "emnist_byclass", 5, 3, 15, False, _mlp(128, 64), 64, 128, 1, 5, 3e-3, 1e-5,
    ),
    "ps-cifar100": ScenarioSpec(
        "CIFAR-100, 20 tasks of 3-15 classes, reduced ResNet-18 (EMGD, Sec. VI-A)",
        "cifar100", 20, 3, 15, False, _resnet(20), 160, 128, 1, 30, 4e-4, 1e-5,
    ),
    "ps-sequential-digits": ScenarioSpec(
        "scikit-learn's digits read pixel by pixel, 64 steps, Longhorn, 5 tasks of 2-4 classes",
        None, 5, 2, 4, True, _longhorn(24, 2, 0.31, 0.38), 24, 16, 8, 5, 1e-2, 1e-5,
    ),
    "ps-sequential-mnist": ScenarioSpec(
        "MNIST read pixel by pixel, 784 steps, Longhorn, 5 tasks of 2-4 classes",
        "mnist", 5, 2, 4, True, _longhorn(32, 2, 0.1307, 0.3081), 32, 64, 1, 5, 1e-2, 1e-5,
    ),
}  # fmt: skip
