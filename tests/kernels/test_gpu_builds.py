"""The GPU kernels compile for their chips without a GPU, and keep their values in registers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_triton_kernels_compile_for_sm_90_without_spills(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(ROOT / "tests" / "kernels" / "compile_triton.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout)
    of_gradients, of_edits = ("_shares", "_total", "_combine", "_sgd", "_adamw"), ("_channel_sums", "_channel_affine")
    of_growth = ("_regrow", "_split", "_split_backward", "_score")
    assert {k["kernel"].split()[0] for k in kernels} == {*of_gradients, *of_edits, *of_growth, "_scan", "_backward"}
    for k in kernels:
        print(f"{k['registers']:4} registers  {k['kernel']}")
    spilled = [k for k in kernels if k["stack"] or k["local"]]
    assert not spilled, spilled


@pytest.mark.skipif(NVCC is None, reason="nvcc is neither on the PATH nor in /usr/local/cuda/bin")
@pytest.mark.skipif(not SOURCES, reason="needs csrc/")
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.name)
def test_cuda_sources_compile_without_spills(source: Path, tmp_path: Path) -> None:
    assert NVCC is not None
    known = subprocess.check_output([NVCC, "--list-gpu-code"], text=True).split()
    found = [c for c in ("70", "75", "80", "90", "100") if f"sm_{c}" in known]
    chips = [found[0], found[-1]]  # the build itself compiles for those between
    targets = [f"-gencode=arch=compute_{c},code=sm_{c}" for c in chips]
    command = [NVCC, "-O3", "-std=c++17", f"-I{ROOT / 'csrc'}", *targets, "-Xptxas=-v", "-c", str(source)]
    done = subprocess.run([*command, "-o", str(tmp_path / "object.o")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)]
    registers = re.findall(r"Used (\d+) registers", done.stderr)
    kernels = source.read_text().count("__global__")
    assert len(registers) == kernels * len(chips)
    print(f"{source.name}: {', '.join(registers)} registers on sm_{', sm_'.join(chips)}")
    assert not any(spills), done.stderr
