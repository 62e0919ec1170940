from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tests.kernels.backends import BACKENDS, Backend

# what cuBLAS wants where torch is told to be deterministic
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(
    params=[
        pytest.param(b, id=b.name, marks=[pytest.mark.gpu] if b.device == "cuda" else []) for b in BACKENDS
    ]
)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    request.param.enter()
    yield request.param
    request.param.leave()


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """New tensors start as NaN, so that an element a kernel forgot shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
