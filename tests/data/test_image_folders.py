"""Folders of image files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pcl.data.arrays import INDEX
from pcl.data.folder import load_folder
from tests.data.image_files import noisy_png, picture, write_folder


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_of_images_is_an_image_set(tmp_path: Path, mode: str, test: str) -> None:
    write_folder(tmp_path / "set", mode, test)
    data = load_folder(tmp_path / "set", 8)
    assert data.classes == ("a", "b", "c")
    assert data.x_train.shape == (9, 3 if mode == "RGB" else 1, 8, 8)
    assert data.y_train.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.x_train[:][:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert data.x_test[:][:, 0, 0, 0].tolist() == [5, 6, 15, 16, 25, 26]
    if mode == "RGB":
        assert data.x_train[4][:, 0, 0].tolist() == [11, 22, 33]
    assert all((image == image[:, :1, :1]).all() for image in data.x_train[:])


def test_images_are_cut_evenly(tmp_path: Path) -> None:
    """Of an image twice as wide as high the middle is left."""
    write_folder(tmp_path)
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 4:12] = 200
    Image.fromarray(wide).save(tmp_path / "train" / "a" / "0.png")
    assert (load_folder(tmp_path, 8).x_train[0] == 200).all()


def test_images_are_turned_as_their_camera_has_noted(tmp_path: Path) -> None:
    """Orientation 6: the top of the scene is the right side of the pixels."""
    write_folder(tmp_path)
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:, 4:] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "train" / "a" / "0.png", exif=exif)
    turned = load_folder(tmp_path, 8).x_train[0]
    assert (turned[:, :4] == 0).all()
    assert (turned[:, 4:] == 200).all()


def test_one_coloured_class_makes_all_coloured(tmp_path: Path) -> None:
    write_folder(tmp_path, "L")
    picture(70).save(tmp_path / "train" / "b" / "0.png")
    assert load_folder(tmp_path, 8).x_train.shape[1] == 3


def test_what_was_decoded_is_used_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    first = load_folder(tmp_path, 8)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda path: pytest.fail("decoded again"))
        assert load_folder(tmp_path, 8).fingerprint == first.fingerprint
    picture(77).save(tmp_path / "train" / "a" / "9.png")
    assert load_folder(tmp_path, 8).x_train[3][0, 0, 0] == 77
    assert load_folder(tmp_path, 6).x_train.shape == (10, 3, 6, 6)
    assert (tmp_path / "decoded-8" / INDEX).is_file()


def test_images_may_lie_deeper(tmp_path: Path) -> None:
    """As in the archive of Tiny-ImageNet: train/<class>/images/*.JPEG."""
    for part in ("train", "val"):
        for cls in ("n01", "n02"):
            (tmp_path / part / cls / "images").mkdir(parents=True)
            picture(9).save(tmp_path / part / cls / "images" / "x.JPEG")
    (tmp_path / "test" / "images").mkdir(parents=True)  # without labels there: passed over
    with pytest.raises(ValueError, match="no class of this name"):
        load_folder(tmp_path, 4)
    (tmp_path / "test" / "images").rmdir()
    assert load_folder(tmp_path, 4).y_test.tolist() == [0, 1]


def test_bad_folders_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match="test or val"):
        load_folder(tmp_path, 8)
    (tmp_path / "test" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match="at least one image"):
        load_folder(tmp_path, 8)
    for part in ("train", "test"):
        picture(3).save(tmp_path / part / "a" / "0.png")
    with pytest.raises(ValueError, match="at least 1 pixel"):
        load_folder(tmp_path, 0)
    (tmp_path / "test" / "a" / "1.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"1\.jpg: cannot be read"):
        load_folder(tmp_path, 8)
    content = (tmp_path / "test" / "a" / "0.png").read_bytes()
    (tmp_path / "test" / "a" / "1.jpg").unlink()
    damaged = noisy_png()
    at = damaged.rindex(b"IDAT")
    damaged[at : at + 4] = b"\0\1\2\3"
    for other in (content[:45], damaged):
        (tmp_path / "test" / "a" / "0.png").write_bytes(other)
        with pytest.raises(ValueError, match=r"0\.png: cannot be read"):
            load_folder(tmp_path, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test", "train"]


def test_classes_of_the_test_part_may_be_fewer(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for file in (tmp_path / "test" / "b").iterdir():
        file.unlink()
    (tmp_path / "test" / "b").rmdir()
    data = load_folder(tmp_path, 8)
    assert torch.equal(data.y_test, torch.tensor([0, 0, 2, 2]))
