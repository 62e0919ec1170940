"""Small data in which every image says where it comes from."""

import torch

from pcl.data.images import ImageData


def numbered(classes: int = 10, train: int = 20, test: int = 6) -> ImageData:
    """``train`` and ``test`` images of 2x3 pixels a class; the first two pixels are the number of the image."""
    parts = []
    for each in (train, test):
        y = torch.arange(classes).repeat(each)
        n = torch.arange(len(y))
        x = torch.randint(0, 256, (len(y), 1, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(each))
        x[:, 0, 0, 0], x[:, 0, 0, 1] = n // 256, n % 256
        parts += [x, y]
    return ImageData(*parts, classes=tuple(f"c{i}" for i in range(classes)))


def numbers(x: torch.Tensor) -> list[int]:
    """The numbers of untransformed images, as uint8 or as fractions."""
    pixels = x if x.dtype == torch.uint8 else (x * 255).round()
    return (pixels[:, 0, 0, 0].long() * 256 + pixels[:, 0, 0, 1].long()).tolist()
