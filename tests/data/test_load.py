"""From a name to an image set: what is there first, a download otherwise."""

import sys
from pathlib import Path

import numpy as np
import pytest

from pcl import cli
from pcl.data.download import download
from pcl.data.load import is_there, load_images, unpack, whereabouts
from pcl.data.rows import Rows
from tests.data.image_files import hugging_face, torchvision, write_folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the libraries that download."""
    asked: list[str] = []
    monkeypatch.setitem(sys.modules, "torchvision", torchvision(asked))
    monkeypatch.setitem(sys.modules, "datasets", hugging_face(asked))
    monkeypatch.setattr("pcl.notices._said", set())
    return asked


def test_a_set_is_downloaded_once(tmp_path: Path, calls: list[str]) -> None:
    with pytest.warns(UserWarning, match="mnist was not in"):
        first = load_images("mnist", tmp_path)
    assert calls == ["MNIST train None", "MNIST test None"]
    again = load_images("mnist", tmp_path)
    assert len(calls) == 2
    assert first.fingerprint == again.fingerprint
    assert isinstance(again.x_train, Rows)
    assert again.x_train.shape == (9, 1, 28, 20)
    assert again.classes == ("zero", "one", "two")
    assert again.x_train[:][:, 0, 0, 0].tolist() == again.y_train.tolist()


def test_emnist_stands_upright(tmp_path: Path, calls: list[str]) -> None:
    """The official files store each image on its side."""
    data = load_images("emnist_byclass", download("emnist_byclass", tmp_path).parent)
    assert calls[0] == "EMNIST train byclass"
    assert data.x_train.shape == (9, 1, 20, 28)
    assert (data.x_train[:][:, 0, 1, 0] == 100).all()


def test_coloured_images_have_their_channels_first(tmp_path: Path, calls: list[str]) -> None:
    data = load_images("cifar10", download("cifar10", tmp_path).parent)
    assert data.x_test.shape == (6, 3, 8, 8)
    assert data.x_test[:][:, 2, 0, 0].tolist() == data.y_test.tolist()


def test_omniglot_has_a_class_for_every_character(tmp_path: Path, calls: list[str]) -> None:
    data = load_images("omniglot", download("omniglot", tmp_path).parent)
    assert data.classes == tuple(f"{alphabet}/character0{i}" for alphabet in ("Greek", "Angelic") for i in (1, 2))
    assert data.x_train.shape == (60, 1, 28, 28)
    assert data.x_test.shape == (20, 1, 28, 28)
    hands = data.x_train[:][:, 0, 3, 3].view(4, 15)  # white has become black
    assert hands.tolist() == [list(range(15))] * 4
    assert data.x_test[:][:, 0, 3, 3].tolist() == [15, 16, 17, 18, 19] * 4


@pytest.mark.parametrize(
    ("name", "side", "asked"),
    [
        ("tiny_imagenet", 64, ["zh-plus/tiny-imagenet train", "zh-plus/tiny-imagenet valid"]),
        ("mini_imagenet", 84, ["timm/mini-imagenet train", "timm/mini-imagenet validation"]),
    ],
)
def test_sets_of_the_hub(name: str, side: int, asked: list[str], tmp_path: Path, calls: list[str]) -> None:
    data = load_images(name, download(name, tmp_path).parent)
    assert calls == asked
    assert data.x_train.shape == (6, 3, side, side)
    assert data.x_test.shape == (4, 3, side, side)
    assert data.x_train[2][:, 0, 0].tolist() == [2, 4, 6]
    assert data.x_train[1][:, 0, 0].tolist() == [1, 1, 1]
    assert data.classes == ("n01", "n02")


def test_what_is_there_comes_first(tmp_path: Path, calls: list[str]) -> None:
    write_folder(tmp_path / "mnist")
    assert len(load_images("mnist", tmp_path, 10).x_train) == 9
    with pytest.raises(ValueError, match="image_size = 64"):
        load_images("mnist", tmp_path)
    x, y = np.zeros((2, 3, 3), dtype=np.uint8), np.array([0, 1])
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    assert len(load_images("mnist", tmp_path).x_train) == 2
    assert calls == []


@pytest.mark.parametrize(("name", "library"), [("mnist", "torchvision"), ("tiny_imagenet", "datasets")])
def test_without_the_library_the_extra_is_named(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError, match=r"\[download\]"):
        download(name, tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"(?s){name}.npz.*--data-root.*\[download\].*pcl download {name}"):
        load_images(name, tmp_path)


@pytest.mark.parametrize("name", ["mnist", "omniglot"])
def test_a_download_that_fails_says_so(
    name: str, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision has a RuntimeError for addresses that cannot be reached."""

    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("File not found or corrupted.")

    for of_torchvision in ("MNIST", "Omniglot"):
        monkeypatch.setattr(sys.modules["torchvision"].datasets, of_torchvision, fails)
    with pytest.raises(OSError, match=f"{name} could not be downloaded: File not found"):
        load_images(name, tmp_path)


def test_unknown_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected mine\.npz, or a folder mine with train"):
        load_images("mine", tmp_path)
    with pytest.raises(ValueError, match="choose one of"):
        download("imagenet", tmp_path)


def test_where_sets_are(tmp_path: Path, calls: list[str]) -> None:
    assert whereabouts("cifar10", tmp_path) == "not there; pcl download cifar10"
    assert not is_there("cifar10", tmp_path)
    download("cifar10", tmp_path)
    assert whereabouts("cifar10", tmp_path).endswith("cifar10, 0 MB")
    assert is_there("cifar10", tmp_path)
    write_folder(tmp_path / "mine")
    assert whereabouts("mine", tmp_path).endswith("mine, images")
    assert is_there("mine", tmp_path)


def test_the_sets_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str], calls: list[str]) -> None:
    download("mnist", tmp_path)
    cli.main(["data", "--data-root", str(tmp_path)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "not there; pcl download omniglot" in shown
    assert "split-mini-imagenet" in shown
    assert "pcl download mnist" not in shown


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_an_npz_file_is_unpacked(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    y = np.arange(6) % 2
    (tmp_path / "a").mkdir()
    np.savez(tmp_path / "a" / "s.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2], classes=np.array(["u", "v"]))
    packed = load_images("s", tmp_path / "a")
    cli.main(["data", "--data-root", str(tmp_path / "a"), "--unpack", "s", "--into", str(tmp_path / "b")])
    mapped = load_images("s", tmp_path / "b")
    assert isinstance(mapped.x_train, Rows)
    assert (mapped.fingerprint, mapped.classes) == (packed.fingerprint, packed.classes)
    unpack("s", tmp_path / "a", tmp_path / "a")
    assert isinstance(load_images("s", tmp_path / "a").x_train, Rows)
    with pytest.raises(FileExistsError, match="remove it"):
        unpack("s", tmp_path / "a", tmp_path / "a")


def test_own_images_make_a_scenario(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "mine")
    (tmp_path / "own.toml").write_text(
        'data = "mine"\nimage_size = 8\ntimeline = "serial"\nbatch_size = 2\n[[tasks]]\nclasses = ["a", "b"]\n'
        '[[tasks]]\nclasses = ["c"]\n'
    )
    cli.main(
        ["train", "--scenario", str(tmp_path / "own.toml"), "--data-root", str(tmp_path / "data"), "--method", "sum",
         "--runs", str(tmp_path), "--no-report"]
    )  # fmt: skip
    assert (tmp_path / "own-task-sum-seed1234" / "results.json").is_file()
