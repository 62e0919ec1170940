"""The pointer tables of the GPU kernels: what they hold, and that a captured upload loses no bit."""

from __future__ import annotations

import pytest
import torch

from pcl_kernels._pointers import BLOCK, segments, upload

WORDS = [0, 1, (1 << 53) + 1, (1 << 62) + 3, 140_737_488_355_327]


def test_upload_under_capture_keeps_every_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The multi-tensor add of a captured upload, run on the CPU."""

    class Capturing:
        type = "cuda"

    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *size, device, **kind: zeros(*size, **kind))
    assert upload(WORDS, torch.int64, Capturing()).tolist() == WORDS  # type: ignore[arg-type]
    numbers = [0.1, -1e300, 5e-324]
    assert upload(numbers, torch.float64, Capturing()).tolist() == numbers  # type: ignore[arg-type]


def test_segments_by_dtype_and_alignment() -> None:
    even, odd, half = torch.zeros(BLOCK + 4), torch.zeros(5), torch.zeros(8, dtype=torch.bfloat16)
    parts = segments([[even, None], [None, None], [odd, odd], [torch.zeros(0), None], [half, half], [even, even]])
    assert [(p.dtype, p.aligned, p.count, p.blocks) for p in parts] == [
        (torch.float32, True, 2, 4),
        (torch.float32, False, 1, 1),
        (torch.bfloat16, True, 1, 1),
    ]
    at = even.data_ptr()
    assert parts[0].words == [0, BLOCK + 4, at, 0, 2, BLOCK + 4, at, at]
    assert parts[0].table(torch.device("cpu")).tolist() == [*parts[0].words, 4]
