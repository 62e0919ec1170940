"""Folders of images, one subfolder for every class: ``train/<class>/...`` and ``test/<class>/...``."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pcl.data.arrays import INDEX, Decoded, check_arrays, read_index, write_arrays
from pcl.data.images import ImageData

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
TEST = ("test", "val", "valid", "validation")
"""Names that the folder of the test part may have; the first that is there and has classes is used."""

GREY = ("1", "L", "LA")
"""Modes of Pillow's images that have no colour."""


def is_image_folder(folder: Path) -> bool:
    """Whether there is a ``train`` folder in it."""
    return (folder / "train").is_dir()


def load_folder(folder: Path, size: int) -> ImageData:
    """The images of a folder, brought to ``size`` x ``size`` pixels.

    Every image is turned as its camera has noted (EXIF), and scaled until it covers the square, and what stands out
    is cut off evenly. Images are grey if the first of every class is, otherwise coloured. Classes are numbered in
    the order of their names; those of the test part must be among those of the training part. An image may lie in
    folders below that of its class.

    The first time all are decoded into ``folder/decoded-<size>``; that is mapped into memory from then on, and made
    anew when files have come, gone or changed.

    Raises:
        ModuleNotFoundError: if Pillow is missing; says which extra brings it.
        ValueError: if a part or a class has no image, a test class is unknown, an image cannot be read, or size < 1.
        OSError: if the decoded copy cannot be written.
    """
    if size < 1:
        raise ValueError(f"image_size: expected at least 1 pixel, got {size}")
    test = next((name for name in TEST if any(_class_folders(folder / name))), None)
    if test is None:
        raise ValueError(
            f"{folder}: expected a folder {' or '.join(TEST)} with one folder for every class beside train"
        )
    classes = [path.name for path in _class_folders(folder / "train")]
    files = {part: _files(folder / name, classes) for part, name in (("train", "train"), ("test", test))}
    source = {
        "folder": folder.name,
        "size": size,
        "turned": True,  # unlike copies that were made before EXIF data were heeded
        "files": _listing(folder, [f for part in files.values() for f in part]),
    }
    target = folder / f"decoded-{size}"
    if (target / INDEX).is_file():
        if read_index(target)["source"] == source:
            return check_arrays(target)
        shutil.rmtree(target)
    first = dict(reversed(files["train"]))  # of several files of a class the first stays
    grey = all(_mode(path) in GREY for path in first.values())
    train, held_out = (
        Decoded(len(of_part), _decoded(of_part, size, grey)) for of_part in (files["train"], files["test"])
    )
    return write_arrays(target, classes, train, held_out, source)


def as_pixels(image: "Image", size: int | None, grey: bool) -> NDArray[np.uint8]:
    """An image of Pillow as ``(H, W)`` or ``(H, W, 3)`` uint8, turned as its EXIF data say, scaled and cut to a square
    if ``size`` says so."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _files(folder: Path, classes: list[str]) -> list[tuple[int, Path]]:
    """(label, file) of every image, class by class."""
    found: list[tuple[int, Path]] = []
    for of_class in _class_folders(folder):
        if of_class.name not in classes:
            raise ValueError(
                f"{of_class}: the training part has no class of this name; it has {', '.join(classes[:40])}"
            )
        paths = sorted(path for path in of_class.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise ValueError(f"{of_class}: expected at least one image, {', '.join(SUFFIXES)}")
        found += [(classes.index(of_class.name), path) for path in paths]
    return found


def _listing(folder: Path, files: list[tuple[int, Path]]) -> str:
    """SHA-256 over names, sizes and times of change: another one when the folder has changed."""
    digest = hashlib.sha256()
    for _, path in files:
        stat = path.stat()
        digest.update(f"{path.relative_to(folder)}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _mode(path: Path) -> str:
    with _opened(path) as image:
        return image.mode


def _decoded(files: list[tuple[int, Path]], size: int, grey: bool) -> Iterator[tuple[NDArray[np.uint8], int]]:
    for label, path in files:
        with _opened(path) as image:
            pixels = as_pixels(image, size, grey)
        yield pixels, label


@contextmanager
def _opened(path: Path) -> "Iterator[Image]":
    """An image file; errors of reading, within the block too, name it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ModuleNotFoundError(
            "reading image files needs Pillow: pip install 'parallel-continual-learning[images]'"
        ) from error
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: of damaged PNG files
        raise ValueError(f"{path}: cannot be read as an image ({error}); repair or remove it") from error
