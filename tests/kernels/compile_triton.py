"""Compile the Triton kernels ahead of time for sm_90, with no GPU, and print what each one takes.

`python tests/kernels/compile_triton.py` prints a JSON list of {kernel, registers, stack, local}; the last
two are bytes of memory that spilled registers would need. Run it without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pcl_kernels._pointers import BLOCK
from pcl_kernels.combine import triton as combine
from pcl_kernels.firefly_apply import triton as firefly_apply
from pcl_kernels.firefly_score import triton as firefly_score
from pcl_kernels.firefly_split import triton as firefly_split
from pcl_kernels.gramian import triton as gramian
from pcl_kernels.longhorn_scan import triton as longhorn
from pcl_kernels.memory_edit import triton as memory_edit

TARGET = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def compile_kernel(kernel: Any, operands: dict[str, str], constants: dict[str, Any], **options: int) -> dict[str, Any]:
    names = kernel.arg_names
    signature = {name: operands.get(name, "constexpr") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    # as at run time, where torch's own allocations are aligned
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    binary = triton.compile(ASTSource(kernel, signature, values, aligned), target=TARGET, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        dump = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True)
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", dump.stdout + dump.stderr)
    assert usage, dump.stdout + dump.stderr
    registers, stack, local = map(int, usage.groups())
    shown = {n: str(v) for n, v in constants.items()}
    return {"kernel": f"{kernel.__name__} {shown}", "registers": registers, "stack": stack, "local": local}


def every_kernel() -> Iterator[dict[str, Any]]:
    walk = {"table": "*i64", "partial": "*fp64", "segments": "i32", "blocks": "i32"}
    update = {"table": "*i64", "weights": "*fp64", "settings": "*fp64", "segments": "i32"}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for per_load in (0, 16 // dtype.itemsize):
            kind = {"DTYPE": gramian.TRITON_DTYPES[dtype], "BLOCK": BLOCK}
            for tasks in (1, 2, 5, 8, 16, 20, 32, 48, 64):
                plan = gramian.launch_plan(tasks, dtype)
                options = {name: plan.pop(name) for name in ("num_warps", "num_stages")}
                constants = {"TASKS": tasks, "ALIGNED": per_load, **kind, **plan}
                yield compile_kernel(gramian._shares, walk, constants, **options)
            constants = {"TASKS": 20, "ALIGNED": per_load > 0, **kind}
            plain = {name: t for name, t in update.items() if name != "settings"}
            yield compile_kernel(combine._combine, plain, {**constants, "ADD": True}, num_warps=8)
            sgd = {**constants, "MOMENTUM": True, "NESTEROV": True}
            yield compile_kernel(combine._sgd, update, sgd, num_warps=8)
            yield compile_kernel(combine._adamw, update, constants, num_warps=8)
        yield from memory_edit_kernels(gramian.TRITON_DTYPES[dtype])
        yield regrow_kernel(gramian.TRITON_DTYPES[dtype])
        yield from firefly_kernels(dtype)
        if dtype != torch.float64:  # which is there to check derivatives, and may spill
            yield from longhorn_kernels(gramian.TRITON_DTYPES[dtype])
    total = {"partial": "*fp64", "out": "*fp64", "programs": "i32"}
    yield compile_kernel(gramian._total, total, {"TASKS": 20, "ENTRIES": 8, "SHARES": 512}, num_warps=8)


def memory_edit_kernels(dtype: Any) -> Iterator[dict[str, Any]]:
    number = {"fp32": "*fp32", "fp64": "*fp64", "bf16": "*bf16"}[str(dtype)]
    sizes = dict.fromkeys(("channels", "positions", "step_c", "step_l"), "i32")
    tile = {"TILE_L": memory_edit.TILE[0], "TILE_C": memory_edit.TILE[1]}
    sums = {"delta": number, "u": number, "sums": "*fp64", "products": "*fp64"} | sizes
    yield compile_kernel(memory_edit._channel_sums, sums, tile)
    affine = {"u": number, "v": number, "out": number, "scale": "*fp64", "p": "*fp64", "q": "*fp64"} | sizes
    yield compile_kernel(memory_edit._channel_affine, affine, {"HAS_U": True, "DTYPE": dtype, **tile})


def regrow_kernel(dtype: Any) -> dict[str, Any]:
    number = {"fp32": "*fp32", "fp64": "*fp64", "bf16": "*bf16"}[str(dtype)]
    operands = dict.fromkeys(("old", "below", "right", "out"), number)
    operands |= {"rows": "*i64", "columns": "*i64", "row_scale": "*fp64", "column_scale": "*fp64"}
    operands |= dict.fromkeys(("height", "width", "inner", "more", "tall", "wide", "out_columns"), "i32")
    flags = dict.fromkeys(("HAS_ROWS", "HAS_COLUMNS", "ROW_SCALE", "COLUMN_SCALE"), True)
    return compile_kernel(firefly_apply._regrow, operands, {**flags, "DTYPE": dtype, "TILE": firefly_apply.TILE})


def firefly_kernels(dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    number = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16"}[dtype]
    vectors = dict.fromkeys(("partial", "epsilon", "scale", "shift", "mirror"), "*fp64")
    tensors = dict.fromkeys(("a", "d", "y", "grad", "da", "dd"), number)
    steps = [f"{t}_{of}" for t in ("a", "d", "y", "g", "da", "dd") for of in "bl"]
    sizes = dict.fromkeys(["channels", "positions", "points", "step_c", *steps], "i32")
    every = torch.empty(0, dtype=dtype)
    for activation in ("gelu",) if dtype == torch.float64 else ("relu", "gelu", "tanh"):
        constants = firefly_split.constants(every, every, every, every, activation)
        stored = {"DTYPE": gramian.TRITON_DTYPES[dtype]}
        for kernel, of in (
            (firefly_split._split, stored),
            (firefly_split._split_backward, {**stored, "SPAN": firefly_split.SPAN}),
            (firefly_score._score, {"SPAN": firefly_split.SPAN}),
        ):
            given = {name: t for name, t in (vectors | tensors | sizes).items() if name in kernel.arg_names}
            yield compile_kernel(kernel, given, {**constants, **of})


def longhorn_kernels(dtype: Any) -> Iterator[dict[str, Any]]:
    number = {"fp32": "*fp32", "bf16": "*bf16"}[str(dtype)]
    state, compute = "*fp32", gramian.TRITON_DTYPES[torch.float32]
    of_rows = ["x", "beta", "q", "k", "out", "d_out", "dx", "d_beta"]
    of_states = ["skip", "initial", "final", "kept", "d_final", "dq", "dk", "d_skip", "d_initial", "scratch"]
    strides = ["x_b", "x_t", "beta_b", "beta_t", "q_b", "q_t", "q_g", "k_b", "k_t", "k_g", "out_b", "out_t"]
    operands = dict.fromkeys(of_rows, number) | dict.fromkeys(of_states, state) | {"ends": "*i64"}
    operands |= dict.fromkeys([*strides, "length", "channels", "states", "part"], "i32")
    for states in (16, 64):
        plan = longhorn.launch_plan(states)
        options = {"num_warps": plan.pop("num_warps")}
        for exact in (False, True):
            flags = {"LOGITS": True, "EXACT": exact, "REVERSE": False, "PACKED": True, "SKIP": True, "DTYPE": compute}
            for kernel, of in (
                (longhorn._scan, {"INITIAL": True, "KEEP": True, "UNROLL": longhorn.UNROLL}),
                (longhorn._backward, {"FINAL": True}),
            ):
                given = {name: t for name, t in operands.items() if name in kernel.arg_names}
                yield compile_kernel(kernel, given, {**flags, **of, **plan}, **options)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(list(every_kernel()), indent=0))
