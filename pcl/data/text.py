"""Text as numbers, one per character, for character-level language models."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class CharacterText:
    """A text, its characters numbered 0 .. len(characters) - 1 in the order of their code points.

    Shapes: train, validation, test ``(n,)`` int64, three consecutive parts of the text.
    """

    characters: str
    train: Tensor
    validation: Tensor
    test: Tensor

    def encode(self, text: str) -> Tensor:
        """Numbers ``(len(text),)`` int64.

        Raises:
            ValueError: if ``text`` has a character that the data set lacks; there is no number for it.
        """
        number = {c: i for i, c in enumerate(self.characters)}
        unknown = sorted(set(text) - number.keys())
        if unknown:
            raise ValueError(f"no number for {unknown}; the text's characters are {self.characters!r}")
        return torch.tensor([number[c] for c in text], dtype=torch.int64)

    def decode(self, numbers: Iterable[int]) -> str:
        """The text that these numbers stand for; also takes a tensor of one dimension."""
        return "".join(self.characters[int(i)] for i in numbers)


def load_text(
    path: Path, *, validation: float = 0.05, test: float = 0.05, download_name: str | None = None
) -> CharacterText:
    """Read a UTF-8 text and split it without shuffling: training part first, then validation, then test.

    The split is by place because neighbouring characters share a play, a scene and a speech; drawn at random, the
    held-out parts would lie between sentences that the model has read.

    Args:
        path: the file.
        validation, test: fractions of the characters, each rounded to a whole number; together below 1.
        download_name: what `pcl download` calls the file, for the message where it is missing.

    Raises:
        FileNotFoundError: if there is no such file; says how to download it.
        ValueError: for fractions that leave no training part, or a file that is empty or not UTF-8.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ValueError(
            f"validation and test: expected fractions >= 0 with a sum below 1, got {validation} and {test}"
        )
    if not path.is_file():
        how = f"\nTo download it: pcl download {download_name} --data-root {path.parent}" if download_name else ""
        raise FileNotFoundError(f"no text file {path}. Point --data-root at the folder that holds {path.name}.{how}")
    try:
        text = path.read_bytes().decode()  # as it is: reading as text would turn line ends into others
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, got bytes that are not ({error})") from error
    if not text:
        raise ValueError(f"{path}: empty; expected a text")
    code_points = torch.tensor([ord(c) for c in text], dtype=torch.int64)
    present, numbers = code_points.unique(return_inverse=True)  # sorted
    held = [round(fraction * len(text)) for fraction in (validation, test)]
    parts = numbers.split([len(text) - sum(held), *held])
    return CharacterText("".join(map(chr, present.tolist())), *parts)
