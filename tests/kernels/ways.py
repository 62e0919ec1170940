"""Ways of running ops that are not in backends.py: by every instruction set, on a GPU, and its forms on CPU tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from pcl_kernels import _C
from tests.kernels.backends import BACKENDS  # before triton: tells it to interpret where there is no GPU

assert BACKENDS

#: puts an implementation in place and names the device of its tensors
Way = Callable[[pytest.MonkeyPatch], str]


def ways(interpret: Callable[[pytest.MonkeyPatch], object]) -> list[Any]:
    """Parameters of a fixture, each a :data:`Way`; ``interpret`` puts the GPU forms in place of those of the CPU."""

    def interpreted(patch: pytest.MonkeyPatch) -> str:
        if torch.cuda.is_available():
            pytest.skip("runs on the device instead")
        interpret(patch)
        return "cpu"

    found = [pytest.param(_use(isa), id=f"cpu-{isa}") for isa in _C.isas()]
    found.append(pytest.param(_cuda, id="cuda", marks=pytest.mark.gpu))
    if importlib.util.find_spec("triton"):
        found.append(pytest.param(interpreted, id="triton-interpreted"))
    return found


def entered(way: Way, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """The device, for as long as a test runs."""
    yield way(patch)
    _C.use_isa(_C.isas()[-1])


def _use(isa: str) -> Way:
    def enter(patch: pytest.MonkeyPatch) -> str:
        _C.use_isa(isa)
        return "cpu"

    return enter


def _cuda(patch: pytest.MonkeyPatch) -> str:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return "cuda"
