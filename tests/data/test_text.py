"""Texts: numbers and back, the split, files that are missing or wrong, downloads."""

import hashlib
import io
from pathlib import Path

import pytest
import torch

from pcl.data import download as downloads
from pcl.data.text import load_text


def test_parts_are_the_text_in_order(tmp_path: Path) -> None:
    text = "To be,\r\nor not to be: ümlaut\n"
    (tmp_path / "t.txt").write_bytes(text.encode())
    data = load_text(tmp_path / "t.txt", validation=0.2, test=0.1)
    parts = [data.train, data.validation, data.test]
    assert [len(p) for p in parts] == [len(text) - 9, 6, 3]
    assert data.decode(torch.cat(parts)) == text
    assert data.characters == "".join(sorted(set(text)))
    assert torch.equal(data.encode(text), torch.cat(parts))


def test_unknown_characters_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abc")
    with pytest.raises(ValueError, match=r"no number for \['x', 'y'\]"):
        load_text(tmp_path / "t.txt").encode("abyx")


@pytest.mark.parametrize(("content", "message"), [(b"", "empty"), (b"caf\xe9", "UTF-8")])
def test_bad_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_text(tmp_path / "t.txt")


@pytest.mark.parametrize("fractions", [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5)])
def test_a_split_without_training_part_is_refused(tmp_path: Path, fractions: tuple[float, float]) -> None:
    (tmp_path / "t.txt").write_text("abc")
    with pytest.raises(ValueError, match="sum below 1"):
        load_text(tmp_path / "t.txt", validation=fractions[0], test=fractions[1])


def test_a_missing_text_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)tiny.txt.*pcl download tinyshakespeare"):
        load_text(tmp_path / "tiny.txt", download_name="tinyshakespeare")


def test_downloaded_texts_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, asked = b"To be, or not to be\n", []

    def answer(address: str, timeout: float) -> io.BytesIO:
        asked.append(address)
        return io.BytesIO(right)

    monkeypatch.setattr(downloads, "urlopen", answer)
    monkeypatch.setitem(downloads.TEXTS, "tinyshakespeare", ("https://there", hashlib.sha256(right).hexdigest()))
    path = downloads.download("tinyshakespeare", tmp_path / "new")
    assert asked == ["https://there"]
    assert path == tmp_path / "new" / "tinyshakespeare.txt"
    assert path.read_bytes() == right
    monkeypatch.setitem(downloads.TEXTS, "tinyshakespeare", ("https://there", "0" * 64))
    with pytest.raises(ValueError, match="SHA-256 0000"):
        downloads.download("tinyshakespeare", tmp_path / "other")
    assert not (tmp_path / "other").exists()
