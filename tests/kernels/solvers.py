"""The implementations of the small problems under test. One more entry in `SOLVERS` joins the grid.

`device` and `device-fma` are the GPU's source (csrc/cuda/*.cuh) built for the processor as a warp of one lane: its
arithmetic is tested where there is no GPU. nvcc contracts a*b + c, so it must be as exact with contraction as
without.
"""

from __future__ import annotations

import ctypes
import importlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import pcl_kernels
from pcl_kernels import _C
from pcl_kernels.pcgrad.walk import prepare

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
CXX = shutil.which("g++") or shutil.which("c++")
FLAGS = {"device": ["-ffp-contract=off"], "device-fma": ["-ffp-contract=fast", "-mfma"]}
OPS = (
    *("simplex_qp", "cone_qp", "cagrad_dual", "maxdo", "nash_mtl", "imtl_g"),
    *("pcgrad", "gradvac", "elastic_factors"),
)
SOLVERS = [*(f"cpu-{isa}" for isa in _C.isas()), *FLAGS, "cuda"]

needs_compiler = pytest.mark.skipif(CXX is None or not CSRC.is_dir(), reason="needs a C++ compiler and csrc/")


def solver_params(*names: str) -> list[Any]:
    marks = {"cuda": [pytest.mark.gpu], **{name: [needs_compiler] for name in FLAGS}}
    return [pytest.param(name, marks=marks.get(name, [])) for name in names or SOLVERS]


def build(out: Path, *flags: str) -> Path:
    assert CXX is not None
    source = HERE / "device_code_on_host.cpp"
    command = [CXX, "-std=c++17", "-Wall", "-Wextra", f"-I{CSRC}", f"-I{HERE}", *flags, str(source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


class DeviceCode:
    """The device code, with the signatures of the registered ops on CPU tensors."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))

    def _run(self, name: str, gram: Tensor, *middle: Any, rows: bool = True) -> tuple[Tensor, ...]:
        batch, k = gram.shape[:-2], gram.shape[-1]
        out = torch.full(gram.shape[:-1], -7.0, dtype=torch.float64)
        measure = torch.full(batch, -7.0, dtype=torch.float64)
        active = torch.zeros(gram.shape[:-1], dtype=torch.bool)
        pivots, status = (torch.full(batch, -7, dtype=torch.int32) for _ in range(2))
        results = (out, measure, active, pivots, status) if rows else (out, measure, status)
        getattr(self.library, f"{name}_on_host")(
            ctypes.c_void_p(gram.data_ptr()), ctypes.c_int(gram.dtype == torch.float32), *middle,
            *(ctypes.c_void_p(t.data_ptr()) for t in results), ctypes.c_long(measure.numel()), ctypes.c_int(k),
        )  # fmt: skip
        return results

    def _vector(
        self, name: str, gram: Tensor, vector: Tensor | None, *before: Any, rows: bool = True
    ) -> tuple[Tensor, ...]:
        gram = gram.contiguous()
        vector = None if vector is None else vector.contiguous()
        stride = gram.shape[-1] if vector is not None and gram.dim() == 3 and vector.dim() == 2 else 0
        at = ctypes.c_void_p(0 if vector is None else vector.data_ptr())
        return self._run(name, gram, *before, at, ctypes.c_long(stride), rows=rows)

    def simplex_qp(self, gram: Tensor, sigma: Tensor | None) -> tuple[Tensor, ...]:
        return self._vector("simplex_qp", gram, sigma)

    def cone_qp(self, gram: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return self._vector("cone_qp", gram, b)

    def cagrad_dual(self, gram: Tensor, c: float, preference: Tensor | None) -> tuple[Tensor, ...]:
        return self._vector("cagrad_dual", gram, preference, ctypes.c_double(c))

    def maxdo(self, gram: Tensor) -> tuple[Tensor, ...]:
        return self._run("maxdo", gram.contiguous())

    def nash_mtl(self, gram: Tensor, preference: Tensor | None, alpha: float) -> tuple[Tensor, ...]:
        return self._vector("nash_mtl", gram, preference, ctypes.c_double(alpha), rows=False)

    def imtl_g(self, gram: Tensor) -> tuple[Tensor, ...]:
        return self._run("imtl_g", gram.contiguous(), rows=False)

    def _walk(self, *operands: Any) -> tuple[Tensor, Tensor | None]:
        call = prepare(*operands)
        call.weights.fill_(-7.0)
        at, is_float, one, *order, width, target, target_stride, beta, moved, weights = call.arguments
        self.library.pcgrad_on_host(
            ctypes.c_void_p(at), ctypes.c_int(is_float), ctypes.c_int(one),
            ctypes.c_void_p(order[0]), ctypes.c_long(order[1]), ctypes.c_int(width),
            ctypes.c_void_p(target), ctypes.c_long(target_stride), ctypes.c_double(beta),
            ctypes.c_void_p(moved), ctypes.c_void_p(weights), ctypes.c_long(call.problems), ctypes.c_int(call.k),
        )  # fmt: skip
        return call.weights, call.moved

    def pcgrad(self, gram: Tensor, orders: Tensor) -> Tensor:
        return self._walk(gram, orders)[0]

    def gradvac(self, gram: Tensor, orders: Tensor, targets: Tensor, beta: float) -> tuple[Tensor, Tensor | None]:
        return self._walk(gram, orders, targets, beta)

    def elastic_factors(self, gram: Tensor, averages: Tensor | None, *settings: float) -> Tensor:
        gram = gram.contiguous()
        sigma = torch.full(gram.shape[:-1], -7.0, dtype=torch.float64)
        self.library.elastic_factors_on_host(
            ctypes.c_void_p(gram.data_ptr()), ctypes.c_int(gram.dtype == torch.float32),
            ctypes.c_void_p(0 if averages is None else averages.data_ptr()), *map(ctypes.c_double, settings),
            ctypes.c_void_p(sigma.data_ptr()), ctypes.c_long(gram.shape[:-2].numel()), ctypes.c_int(gram.shape[-1]),
        )  # fmt: skip
        return sigma


def on_cuda(op: Callable[..., Any]) -> Callable[..., Any]:
    """`op` of CPU tensors by way of the GPU."""

    def move(value: Any, device: str) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        if isinstance(value, tuple):
            moved = (move(v, device) for v in value)
            return type(value)(*moved) if hasattr(value, "_fields") else tuple(moved)
        return value

    def run(*args: Any, **options: Any) -> Any:
        options = {name: move(value, "cuda") for name, value in options.items()}
        return move(op(*(move(a, "cuda") for a in args), **options), "cpu")

    return run


@contextmanager
def solvers_named(name: str, library: Callable[[str], Path]) -> Iterator[SimpleNamespace]:
    """The public ops of CPU tensors, run by one implementation."""
    ops = {op: getattr(pcl_kernels, op) for op in OPS}
    patch = pytest.MonkeyPatch()
    if name.startswith("cpu"):
        _C.use_isa(name.removeprefix("cpu-"))
    elif name == "cuda":
        ops = {op: on_cuda(call) for op, call in ops.items()}
    else:
        if "-mfma" in FLAGS[name] and " fma " not in Path("/proc/cpuinfo").read_text():
            pytest.skip("needs a processor with FMA")
        code = DeviceCode(library(name))
        for op in OPS:
            module = importlib.import_module(f"pcl_kernels.{op}.op")
            patch.setattr(module, "_cpu", getattr(code, op))
            patch.setattr(module, "_op", getattr(code, op))
            patch.setattr(module, "_direct", lambda *_: None, raising=False)
    try:
        yield SimpleNamespace(name=name, **ops)
    finally:
        patch.undo()
        _C.use_isa(_C.isas()[-1])
