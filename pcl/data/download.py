"""Fetch the public image sets with torchvision and store them as the npz files that the scenarios read."""

from pathlib import Path
from typing import Any

import numpy as np

DOWNLOADS = {
    "mnist": ("MNIST", {}),
    "fashion_mnist": ("FashionMNIST", {}),
    "emnist_byclass": ("EMNIST", {"split": "byclass"}),
    "cifar10": ("CIFAR10", {}),
    "cifar100": ("CIFAR100", {}),
}
"""File stem -> torchvision data set and its arguments."""


def download(name: str, data_root: Path) -> Path:
    """Download ``name`` into ``data_root`` and write ``data_root/name.npz``; return that path.

    Raises:
        ValueError: for an unknown name.
        ModuleNotFoundError: if torchvision is missing; says which extra brings it.
    """
    if name not in DOWNLOADS:
        raise ValueError(f"no data set {name!r} to download; choose one of {', '.join(DOWNLOADS)}")
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ModuleNotFoundError(
            "downloading needs torchvision: pip install 'parallel-continual-learning[download]'"
        ) from error
    class_name, arguments = DOWNLOADS[name]
    arrays: dict[str, Any] = {}
    for part in ("train", "test"):
        data = getattr(datasets, class_name)(
            data_root / "torchvision", train=part == "train", download=True, **arguments
        )
        x, y = np.asarray(data.data), np.asarray(data.targets)
        if class_name == "EMNIST":
            x = x.transpose(0, 2, 1)  # the official files store each image on its side
        arrays[f"x_{part}"], arrays[f"y_{part}"] = x, y.astype(np.int64)
        arrays["classes"] = np.asarray(data.classes)
    target = data_root / f"{name}.npz"
    np.savez_compressed(target, **arrays)
    return target
