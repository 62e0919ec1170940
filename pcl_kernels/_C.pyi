"""The compiled module (csrc/bindings.cpp). Addresses are `Tensor.data_ptr()`; 0 stands for "absent"."""

from collections.abc import Sequence

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
    gram: int,
    is_float: bool,
    c: float,
    preference: int,
    preference_stride: int,
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
def maxdo(
    gram: int,
    is_float: bool,
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
def nash_mtl(
    gram: int,
    is_float: bool,
    alpha: float,
    preference: int,
    preference_stride: int,
    out: int,
    residual: int,
    status: int,
    batch: int,
    k: int,
    threads: int,
    /,
) -> int: ...
def imtl_g(
    gram: int, is_float: bool, out: int, residual: int, status: int, batch: int, k: int, threads: int, /
) -> int: ...
def pcgrad(
    gram: int,
    is_float: bool,
    one_gram: bool,
    order: int,
    order_stride: int,
    width: int,
    target: int,
    target_stride: int,
    beta: float,
    moved: int,
    weights: int,
    batch: int,
    k: int,
    threads: int,
    /,
) -> int: ...
def random_orders(seed: int, out: int, rows: int, k: int, /) -> None: ...
def elastic_factors(
    gram: int,
    is_float: bool,
    averages: int,
    temperature: float,
    floor: float,
    keep: float,
    take: float,
    sigma: int,
    batch: int,
    k: int,
    /,
) -> int: ...
def semidefinite_solve(
    a: int, b: int, x: int, cutoff: float, batch: int, k: int, columns: int, threads: int, /
) -> None: ...
def cone_qp(
    gram: int,
    is_float: bool,
    b: int,
    b_stride: int,
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
def sample_conv(
    shape: list[int], is_float: bool, a: int, delta: int, minus: int, v: int, out: int, threads: int, /
) -> None: ...
def sample_conv_transpose(shape: list[int], is_float: bool, v: int, delta: int, out: int, threads: int, /) -> None: ...
def firefly_split(
    sizes: tuple[int, int, int, bool, int, int],
    vectors: list[int],
    a: tuple[int, int],
    d: tuple[int, int],
    out: tuple[int, int],
    threads: int,
    /,
) -> None: ...
def firefly_split_backward(
    sizes: tuple[int, int, int, bool, int, int],
    vectors: list[int],
    a: tuple[int, int],
    d: tuple[int, int],
    grad: tuple[int, int],
    da: tuple[int, int],
    dd: tuple[int, int],
    sums: int,
    threads: int,
    /,
) -> None: ...
def firefly_conv(
    shape: list[int],
    channels_last: bool,
    operands: list[int],
    weights_last: bool,
    vectors: list[int],
    activation: int,
    y: int,
    z: int,
    threads: int,
    /,
) -> None: ...
def firefly_conv_usual(
    tensors: list[object], padding: list[int], activation: int, refuse_grad: bool, threads: int, /
) -> bool: ...
def firefly_linear(
    shape: list[int], operands: list[int], vectors: list[int], activation: int, y: int, z: int, threads: int, /
) -> None: ...
def firefly_linear_usual(tensors: list[object], activation: int, refuse_grad: bool, threads: int, /) -> bool: ...
def ghost_gramian(
    blocks: list[int],
    a: tuple[int, int, int, int],
    delta: tuple[int, int, int, int],
    bias: float,
    gram: int,
    threads: int,
    /,
) -> None: ...
def logit_distance(
    rows: int,
    columns: int,
    stored: int,
    now: int,
    then: int,
    factor: float,
    ignored: bool,
    loss: int,
    slopes: int,
    /,
) -> None: ...
def mlp_fits(
    x: object,
    weights: Sequence[object],
    biases: Sequence[object] | None,
    behind: Sequence[object] | None,
    scale: object,
    /,
) -> bool: ...
def mlp_rows(
    x: object,
    weights: Sequence[object],
    biases: Sequence[object],
    labels: int,
    losses: int,
    dx: int,
    threads: int,
    /,
) -> bool | None: ...
def mlp_forward(
    rows: int,
    widths: list[int],
    relu_last: bool,
    x: int,
    weights: list[int],
    biases: list[int],
    hidden: list[int],
    threads: int,
    /,
) -> None: ...
def softmax_losses(
    columns: int, labels: int, blocks: list[int], factors: list[float], logits: int, losses: int, of_logits: int, /
) -> bool: ...
def mlp_backward(
    rows: int,
    widths: list[int],
    relu_last: bool,
    x: int,
    weights: list[int],
    hidden: list[int],
    grad: int,
    scale: int,
    to: list[list[int]],
    dx: int,
    lowest: int,
    threads: int,
    /,
) -> None: ...
def mlp_losses(
    x: object,
    weights: Sequence[object],
    biases: Sequence[object],
    labels: int,
    blocks: list[int],
    factors: list[float],
    hidden: Sequence[object],
    losses: int,
    of_logits: int,
    threads: int,
    /,
) -> bool | None: ...
def mlp_descend(
    x: object,
    weights: Sequence[object],
    biases: Sequence[object],
    hidden: Sequence[object],
    scale: object,
    rate: float,
    to_weights: Sequence[object] | None,
    to_biases: Sequence[object] | None,
    threads: int,
    /,
) -> bool | None: ...
def firefly_score(
    sizes: tuple[int, int, int, bool, int, int],
    vectors: list[int],
    a: tuple[int, int],
    d: tuple[int, int],
    grad: tuple[int, int],
    points: int,
    score: int,
    threads: int,
    /,
) -> None: ...
def firefly_select(
    gain: int,
    cost: int,
    layer: int,
    count: int,
    neurons: int,
    layers: int,
    budget: int,
    least: int,
    chosen: int,
    /,
) -> None: ...
def firefly_apply(address: list[tuple[int, ...]], size: list[tuple[int, ...]], threads: int, /) -> None: ...
def read_bytes(address: list[int], size: list[int], threads: int, /) -> int: ...
def multiply_adds(rounds: int, threads: int, /) -> int: ...
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

# only where the CUDA sources were built (BUILD["cuda"]); pcl_kernels._cuda finds them by name
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
def cuda_cone_qp_workspace(batch: int, k: int, /) -> int: ...
def cuda_cone_qp(
    gram: int,
    is_float: bool,
    b: int,
    b_stride: int,
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
def cuda_cagrad_dual_workspace(batch: int, k: int, /) -> int: ...
def cuda_cagrad_dual(
    gram: int,
    is_float: bool,
    c: float,
    preference: int,
    preference_stride: int,
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
def cuda_maxdo_workspace(batch: int, k: int, /) -> int: ...
def cuda_maxdo(
    gram: int,
    is_float: bool,
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
def cuda_nash_mtl_workspace(batch: int, k: int, /) -> int: ...
def cuda_nash_mtl(
    gram: int,
    is_float: bool,
    alpha: float,
    preference: int,
    preference_stride: int,
    out: int,
    residual: int,
    status: int,
    batch: int,
    k: int,
    workspace: int,
    stream: int,
    /,
) -> None: ...
def cuda_imtl_g_workspace(batch: int, k: int, /) -> int: ...
def cuda_imtl_g(
    gram: int, is_float: bool, out: int, residual: int, status: int, batch: int, k: int, workspace: int, stream: int, /
) -> None: ...
def cuda_pcgrad_workspace(batch: int, k: int, /) -> int: ...
def cuda_pcgrad(
    gram: int,
    is_float: bool,
    one_gram: bool,
    order: int,
    order_stride: int,
    width: int,
    target: int,
    target_stride: int,
    beta: float,
    moved: int,
    weights: int,
    batch: int,
    k: int,
    workspace: int,
    stream: int,
    /,
) -> None: ...
def cuda_elastic_factors_workspace(batch: int, k: int, /) -> int: ...
def cuda_elastic_factors(
    gram: int,
    is_float: bool,
    averages: int,
    temperature: float,
    floor: float,
    keep: float,
    take: float,
    sigma: int,
    batch: int,
    k: int,
    workspace: int,
    stream: int,
    /,
) -> None: ...
def cuda_semidefinite_solve_workspace(batch: int, k: int, /) -> int: ...
def cuda_semidefinite_solve(
    a: int, b: int, x: int, cutoff: float, columns: int, batch: int, k: int, workspace: int, stream: int, /
) -> None: ...

LONGHORN_TIME: int
LONGHORN_CHANNELS: int

def longhorn_lanes(dtype: int, /) -> int: ...
def longhorn_scan(
    sequences: list[tuple[int, int, int]],
    sizes: tuple[int, int, int],
    dtype: int,
    logits: bool,
    exact: bool,
    reverse: bool,
    rows: list[tuple[int, int, int, int]],
    whole: tuple[int, int, int],
    final: int,
    threads: int,
    /,
) -> None: ...
def longhorn_backward(
    sequences: list[tuple[int, int, int]],
    sizes: tuple[int, int, int],
    dtype: int,
    logits: bool,
    exact: bool,
    reverse: bool,
    rows: list[tuple[int, int, int, int]],
    whole: tuple[int, int, int],
    gradients: list[tuple[int, int, int, int]],
    part: int,
    states: tuple[int, int, int],
    threads: int,
    /,
) -> None: ...
