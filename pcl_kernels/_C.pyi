"""The compiled module (csrc/bindings.cpp). Addresses are `Tensor.data_ptr()`; 0 stands for "absent"."""

BUILD: dict[str, str | int]

def isa() -> str: ...
def isas() -> list[str]: ...
def use_isa(name: str) -> None: ...
def cuda_device_count() -> int: ...
def cagrad_dual(
    gram: int, is_float: bool, c: float, out: int, status: int, batch: int, k: int, threads: int, /
) -> int: ...
def nash_mtl(
    gram: int, is_float: bool, out: int, status: int, batch: int, k: int, threads: int, /
) -> int: ...
def cone_qp(
    gram: int,
    is_float: bool,
    b: int,
    b_stride: int,
    out: int,
    pivots: int,
    status: int,
    batch: int,
    k: int,
    threads: int,
    /,
) -> int: ...
def simplex_qp(
    gram: int,
    is_float: bool,
    sigma: int,
    sigma_stride: int,
    out: int,
    gap: int,
    active: int,
    pivots: int,
    status: int,
    batch: int,
    k: int,
    threads: int,
    /,
) -> int: ...
