"""The implementations under test. One more entry here joins the whole grid of tests/kernels."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import pcl_kernels
from pcl_kernels import _C

# Without a GPU, Triton's interpreter runs its kernels on CPU tensors. It has to know before triton is
# imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@dataclass(frozen=True)
class Backend:
    """One way of running the ops, on tensors of `device`; `enter` and `leave` surround each test."""

    name: str
    gramian: Callable[..., Any] = pcl_kernels.gramian
    combine: Callable[..., Any] = pcl_kernels.combine
    device: str = "cpu"
    bits_follow_split: bool = False  # the last bits depend on how columns are cut into parameters
    enter: Callable[[], None] = lambda: None
    leave: Callable[[], None] = lambda: None


def _cpu(isa: str) -> Backend:
    return Backend(f"cpu-{isa}", enter=lambda: _C.use_isa(isa), leave=lambda: _C.use_isa(_C.isas()[-1]))


def _interpreted() -> Backend:
    """The Triton kernels in place of the C++ ones, on CPU tensors."""
    from pcl_kernels.combine import op as combine_op
    from pcl_kernels.combine import triton as combine
    from pcl_kernels.gramian import op as gramian_op
    from pcl_kernels.gramian import triton as gramian

    def wide_steps(tasks: int, dtype: torch.dtype) -> dict[str, int]:
        """Few steps, because the interpreter's time goes by their number, but more than one a block."""
        plan = launch_plan(tasks, dtype)
        return {**plan, "STEP": 64 if plan["GROUPS"] > 8 else 512 // plan["GROUPS"]}

    launch_plan = gramian.launch_plan
    patch = pytest.MonkeyPatch()

    def enter() -> None:
        patch.setattr(gramian, "launch_plan", wide_steps)
        patch.setattr(_C, "read", lambda *_: None)  # else ordinary calls go straight to the C++ kernels
        patch.setattr(gramian_op, "_cpu", gramian.gramian)
        patch.setattr(combine_op, "_cpu", combine.combine)
        patch.setattr(combine_op, "_cpu_into", combine.combine_into)

    return Backend("triton-interpreted", enter=enter, leave=patch.undo, bits_follow_split=True)


BACKENDS = [
    *(_cpu(isa) for isa in _C.isas()),
    Backend("cuda", device="cuda", bits_follow_split=True),  # the mark `gpu` skips it where there is no device
]
if importlib.util.find_spec("triton") and not torch.cuda.is_available():
    BACKENDS.append(_interpreted())
