"""One way to every image set, by its name: what lies under the data root first, a download if nothing does."""

from pathlib import Path

from pcl.data.arrays import INDEX, Decoded, check_arrays, write_arrays
from pcl.data.download import IMAGE_SETS, download_images
from pcl.data.folder import is_image_folder, load_folder
from pcl.data.images import ImageData, load_npz
from pcl.notices import say_once


def load_images(name: str, data_root: Path, image_size: int | None = None) -> ImageData:
    """The image set ``name``, from the first of these that is there.

    1. ``data_root/name``, a set that was downloaded or unpacked, see :func:`pcl.data.arrays.check_arrays`;
    2. ``data_root/name.npz``, see :func:`pcl.data.images.load_npz`;
    3. ``data_root/name/train``, a folder of images, see :func:`pcl.data.folder.load_folder`;
    4. a download with torchvision or Hugging Face's ``datasets``, which is then at 1.

    Images of 1, 3 and 4 are mapped into memory: those of a batch are read when it is made.

    Args:
        image_size: height and width to which images of a folder are brought; others have the size they have.

    Raises:
        FileNotFoundError: if there is nothing, and no library to download it or none that knows it.
        ValueError: if what is there is not as it should be, or a folder comes without ``image_size``.
        OSError: if a download fails, or its arrays cannot be written.
    """
    folder = data_root / name
    if (folder / INDEX).is_file():
        return check_arrays(folder)
    if (file := data_root / f"{name}.npz").is_file():
        return load_npz(file)
    if is_image_folder(folder):
        if image_size is None:
            raise ValueError(f"{folder}: images of a folder need a size; say `image_size = 64` in the scenario file")
        return load_folder(folder, image_size)
    if name not in IMAGE_SETS:
        raise FileNotFoundError(
            f"no data set {name!r} in {data_root}: expected {name}.npz, or a folder {name} with train/<class>/ and "
            "test/<class>/ full of images; point --data-root at the folder that holds it"
        )
    try:
        data = download_images(name, data_root)
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            f"no data file {file} and no folder {folder}. Point --data-root at the folder that holds {name}.\n"
            f"To download it: pip install 'parallel-continual-learning[download]' && "
            f"pcl download {name} --data-root {data_root}"
        ) from error
    say_once(f"{name} was not in {data_root}; it has been downloaded into {folder}")
    return data


def unpack(name: str, data_root: Path, into: Path) -> Path:
    """Decode ``data_root/name.npz`` into the folder ``into/name``. That is mapped into memory; the npz file has to be
    decompressed in every run. The set and its fingerprint are the same.

    Raises:
        FileExistsError: if there is such a folder.
        FileNotFoundError, ValueError: as :func:`pcl.data.images.load_npz`.
        OSError: if it cannot be written.
    """
    folder, file = into / name, data_root / f"{name}.npz"
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; remove it to unpack {file} anew")
    data = load_npz(file)
    train, test = (
        Decoded(len(x), ((image.permute(1, 2, 0).numpy(), label) for image, label in zip(x, y.tolist(), strict=True)))
        for x, y in ((data.x_train[:], data.y_train), (data.x_test[:], data.y_test))
    )
    write_arrays(folder, data.classes, train, test, {"npz": file.name})
    return folder


def is_there(name: str, data_root: Path) -> bool:
    """Whether :func:`load_images` would find a set without a download."""
    folder = data_root / name
    return (folder / INDEX).is_file() or (data_root / f"{name}.npz").is_file() or is_image_folder(folder)


def whereabouts(name: str, data_root: Path) -> str:
    """Where :func:`load_images` would find a set, for people."""
    folder = data_root / name
    if (folder / INDEX).is_file():
        return f"{folder}, {_size(sum(path.stat().st_size for path in folder.iterdir()))}"
    if (file := data_root / f"{name}.npz").is_file():
        return f"{file}, {_size(file.stat().st_size)}"
    return f"{folder}, images" if is_image_folder(folder) else f"not there; pcl download {name}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
