"""`python -m pcl_kernels.info`: what is built, for which instruction sets and devices."""

from __future__ import annotations

import importlib.util

import torch

import pcl_kernels
from pcl_kernels import _C
from pcl_kernels._registry import OPS


def facts() -> dict[str, str]:
    """Build and machine facts as (name, value) text."""
    build = _C.BUILD
    return {
        "torch": str(torch.__version__),
        "compiler": str(build["compiler"]),
        "flags": str(build["flags"]),
        "instruction sets built": str(build["isas"]),
        "instruction set in use": _C.isa(),
        "OpenMP": str(build["openmp"]),
        "CUDA sources": f"built with nvcc {build['cuda']}" if build["cuda"] else "not built",
        "CUDA devices": str(_C.cuda_device_count()),
        "Triton": "available" if importlib.util.find_spec("triton") else "not installed",
    }


def main() -> None:
    width = max(map(len, facts()))
    for name, value in facts().items():
        print(f"{name:<{width}}  {value}")
    print(f"\n{'op':<{width}}  backends")
    for name, backends in sorted(OPS.items()):
        print(f"{name:<{width}}  {', '.join(backends)}")
    print(f"\npublic names: {', '.join(pcl_kernels.__all__)}")


if __name__ == "__main__":
    main()
