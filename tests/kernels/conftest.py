from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.kernels.backends import BACKENDS, Backend


@pytest.fixture(params=BACKENDS, ids=lambda b: b.name)
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
