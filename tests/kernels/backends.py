"""The implementations under test. One more entry here joins the whole grid of tests/kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pcl_kernels
from pcl_kernels import _C


@dataclass(frozen=True)
class Backend:
    """One way of running the ops, on tensors of `device`; `enter` and `leave` surround each test."""

    name: str
    gramian: Callable[..., Any] = pcl_kernels.gramian
    combine: Callable[..., Any] = pcl_kernels.combine
    device: str = "cpu"
    enter: Callable[[], None] = lambda: None
    leave: Callable[[], None] = lambda: None


def _cpu(isa: str) -> Backend:
    return Backend(f"cpu-{isa}", enter=lambda: _C.use_isa(isa), leave=lambda: _C.use_isa(_C.isas()[-1]))


BACKENDS = [_cpu(isa) for isa in _C.isas()]
