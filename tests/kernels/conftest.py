from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pcl_kernels import _C
from tests.kernels.backends import BACKENDS, Backend
from tests.kernels.solvers import FLAGS, build, solver_params, solvers_named

# what cuBLAS wants where torch is told to be deterministic
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(
    params=[pytest.param(b, id=b.name, marks=[pytest.mark.gpu] if b.device == "cuda" else []) for b in BACKENDS]
)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    request.param.enter()
    yield request.param
    request.param.leave()


@pytest.fixture(params=_C.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set this machine has."""
    before = _C.isa()
    _C.use_isa(request.param)
    yield request.param
    _C.use_isa(before)


@pytest.fixture(scope="session")
def device_code(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds the GPU's solvers for the processor, once per set of flags."""

    @cache
    def library(name: str) -> Path:
        return build(tmp_path_factory.mktemp(name) / "solvers.so", "-O2", "-shared", "-fPIC", *FLAGS[name])

    return library


@pytest.fixture(params=solver_params())
def solvers(request: pytest.FixtureRequest, device_code: Callable[[str], Path]) -> Iterator[SimpleNamespace]:
    """The small problems by every implementation, on CPU tensors."""
    with solvers_named(request.param, device_code) as ops:
        yield ops


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the interpreter takes many seconds for is left to `-m slow`; other kernels always run it."""
    for item in items:
        values = getattr(getattr(item, "callspec", None), "params", {})
        if getattr(values.get("backend"), "name", "") != "triton-interpreted":
            continue
        sizes_in_shapes = [math.prod(shape) for shape in values.get("shapes", [])]
        elements = max([values.get("m", 0), *sizes_in_shapes]) * values.get("k", 1)
        rare = values.get("dtype", torch.float32) not in (torch.float32, torch.bfloat16)
        if (
            elements > 2500
            or values.get("k", 1) > 25
            or rare
            or "test_properties" in item.name
            or "threads" in item.name
            or "wider_matrix" in item.name  # its transposed matrix stands for 900 tasks
            or "every_16_bit" in item.name  # 401 tasks, again and again
        ):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """New tensors start as NaN, so that an element a kernel forgot shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
