"""The compiled module (csrc/bindings.cpp). Addresses are `Tensor.data_ptr()`; 0 stands for "absent"."""

BUILD: dict[str, str | int]

def isa() -> str: ...
def isas() -> list[str]: ...
def use_isa(name: str) -> None: ...
def cuda_device_count() -> int: ...

class Operands:
    def __init__(
        self, tasks: int, address: list[int], size: list[int], dtype: list[int], written: list[list[int]], /
    ) -> None: ...
    @property
    def tasks(self) -> int: ...
    @property
    def listed(self) -> bool: ...

def use_torch(tensor: type, parameter: type, /) -> bool: ...
def read(
    grads: object, written: tuple[object, ...], refuse_grad: bool, refuse_grad_written: bool, /
) -> Operands | None: ...
def gramian(operands: Operands, gram: int, threads: int, /) -> None: ...
def combine(operands: Operands, weights: object, accumulate: bool, threads: int, /) -> bool: ...
def cagrad_dual(
    gram: int, is_float: bool, c: float, out: int, status: int, batch: int, k: int, threads: int, /
) -> int: ...
def nash_mtl(gram: int, is_float: bool, out: int, status: int, batch: int, k: int, threads: int, /) -> int: ...
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
def read_bytes(address: list[int], size: list[int], threads: int, /) -> int: ...
def combine_sgd(
    operands: Operands,
    weights: object,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first_step: bool,
    threads: int,
    /,
) -> bool: ...
def combine_adamw(
    operands: Operands,
    weights: object,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    threads: int,
    /,
) -> bool: ...

# only where the CUDA sources were built (BUILD["cuda"])
def cuda_simplex_qp_workspace(batch: int, k: int, /) -> int: ...
def cuda_simplex_qp(
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
    workspace: int,
    stream: int,
    /,
) -> None: ...
