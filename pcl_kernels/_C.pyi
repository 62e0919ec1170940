"""The compiled module (csrc/bindings.cpp). Addresses are `Tensor.data_ptr()`; 0 stands for "absent"."""

BUILD: dict[str, str | int]

def isa() -> str: ...
def isas() -> list[str]: ...
def use_isa(name: str) -> None: ...
def cuda_device_count() -> int: ...
def gramian(tasks: int, address: list[int], size: list[int], dtype: list[int], gram: int, threads: int, /) -> None: ...
def combine(
    tasks: int,
    address: list[int],
    size: list[int],
    dtype: list[int],
    weights: list[float],
    out: list[int],
    accumulate: bool,
    threads: int,
    /,
) -> None: ...
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
def channel_sums(
    samples: int,
    channels: int,
    positions: int,
    channels_last: bool,
    dtype: int,
    delta: int,
    u: int,
    sums: int,
    products: int,
    threads: int,
    /,
) -> None: ...
def channel_affine(
    samples: int,
    channels: int,
    positions: int,
    channels_last: bool,
    dtype: int,
    u: int,
    scale: int,
    v: int,
    p: int,
    q: int,
    out: int,
    threads: int,
    /,
) -> None: ...
def row_term(
    dtype: int,
    u: int,
    v: int,
    add: float,
    minus: int,
    out: int,
    rows: int,
    width: int,
    width_v: int,
    threads: int,
    /,
) -> None: ...
def sample_conv(
    shape: list[int], is_float: bool, a: int, delta: int, minus: int, v: int, out: int, threads: int, /
) -> None: ...
def sample_conv_transpose(shape: list[int], is_float: bool, v: int, delta: int, out: int, threads: int, /) -> None: ...
def read_bytes(address: list[int], size: list[int], threads: int, /) -> int: ...
def combine_sgd(
    tasks: int,
    address: list[int],
    size: list[int],
    dtype: list[int],
    weights: list[float],
    params: list[int],
    buffers: list[int],
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first_step: bool,
    threads: int,
    /,
) -> None: ...
def combine_adamw(
    tasks: int,
    address: list[int],
    size: list[int],
    dtype: list[int],
    weights: list[float],
    params: list[int],
    exp_avgs: list[int],
    exp_avg_sqs: list[int],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    threads: int,
    /,
) -> None: ...

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
