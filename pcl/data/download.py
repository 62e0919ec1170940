"""Fetch public data: image sets with torchvision, stored as the npz files that the scenarios read, and texts."""

import hashlib
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np

DOWNLOADS = {
    "mnist": ("MNIST", {}),
    "fashion_mnist": ("FashionMNIST", {}),
    "emnist_byclass": ("EMNIST", {"split": "byclass"}),
    "cifar10": ("CIFAR10", {}),
    "cifar100": ("CIFAR100", {}),
}
"""File stem -> torchvision data set and its arguments."""

TEXTS = {
    "tinyshakespeare": (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}
"""File stem -> address and SHA-256 of the file."""

NAMES = (*DOWNLOADS, *TEXTS)


def download(name: str, data_root: Path) -> Path:
    """Download ``name`` into ``data_root`` and write ``data_root/name.npz``, a text ``name.txt``; return that path.

    Raises:
        ValueError: for an unknown name, or a text that is no longer the one of that name.
        ModuleNotFoundError: if an image set needs torchvision and it is missing; says which extra brings it.
        OSError: if the address of a text cannot be reached.
    """
    if name in TEXTS:
        return _download_text(name, data_root)
    if name not in DOWNLOADS:
        raise ValueError(f"no data set {name!r} to download; choose one of {', '.join(NAMES)}")
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


def _download_text(name: str, data_root: Path) -> Path:
    address, expected = TEXTS[name]
    with urlopen(address, timeout=60) as answer:
        content = answer.read()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(
            f"{address}: expected a file with SHA-256 {expected}, got {found}; it has changed or came damaged. "
            f"Nothing was written; put the right file at {data_root / name}.txt by hand"
        )
    data_root.mkdir(parents=True, exist_ok=True)
    target = data_root / f"{name}.txt"
    target.write_bytes(content)
    return target
