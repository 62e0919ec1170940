"""Checkpoint files: written atomically, checked when read, loaded without running any code they hold.

Layout: the line ``PCL-CHECKPOINT 1``, a line with the SHA-256 of the rest in hexadecimal, and the rest, which is
what ``torch.save`` makes of a dict of tensors and plain values. It is read with ``weights_only=True``.
"""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

_FIRST_LINE = b"PCL-CHECKPOINT 1\n"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads ``path``, at any moment, finds the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state``, a dict of tensors and plain values, to ``path``."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    write_atomically(path, _FIRST_LINE + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file, or is damaged.
    """
    content = path.read_bytes()
    if not content.startswith(_FIRST_LINE):
        raise ValueError(f"{path}: not a pcl checkpoint; it should begin with {_FIRST_LINE.decode().strip()!r}")
    digest, _, body = content[len(_FIRST_LINE) :].partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError(f"{path}: damaged; its content does not match its checksum. Use an older checkpoint")
    state: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
    return state
