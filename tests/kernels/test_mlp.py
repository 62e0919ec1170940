"""A perceptron in one call against the reference, on every instruction set and beside torch's own operators."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

from pcl_kernels import _C, mlp, mlp_backward, mlp_descend, mlp_losses
from pcl_kernels.mlp import reference
from pcl_kernels.mlp.compiled import READ_IN_CPP, fits
from tests.kernels.mlp_cases import CHAINS, Seen, chain, close, leaves


@pytest.fixture(params=_C.isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _C.use_isa(request.param)
    yield request.param
    _C.use_isa(_C.isas()[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_value_and_gradients(name: str, dtype: torch.dtype) -> None:
    x, weights, biases = chain(name, dtype)
    layers = len(weights)
    mine, theirs = leaves(x, *weights, *biases), [t.double() for t in leaves(x, *weights, *biases)]
    y = mlp(mine[0], mine[1 : 1 + layers], mine[1 + layers :])
    expected = reference.mlp(theirs[0], theirs[1 : 1 + layers], theirs[1 + layers :])
    close(y, expected)
    grad = torch.randn(y.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    found, wanted = torch.autograd.grad(y, mine, grad), torch.autograd.grad(expected, theirs, grad.double())
    for a, b in zip(found, wanted, strict=True):
        close(a, b)
    with torch.no_grad():
        assert torch.equal(mlp(x, weights, biases), y)


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("widths", [(4, 0, 3), (0, 3), (4, 0)])
def test_nothing(rows: int, widths: tuple[int, ...]) -> None:
    x = torch.randn(rows, widths[0])
    weights = [torch.randn(m, n) for n, m in pairwise(widths)]
    biases = [torch.randn(m) for m in widths[1:]]
    close(mlp(x, weights, biases), reference.mlp(x, weights, biases))


def test_layers_without_bias_and_frozen_ones() -> None:
    x, weights, biases = chain("ragged")
    biases[1] = None
    moving = weights[1].requires_grad_()
    y = mlp(x, weights, biases)
    close(y, reference.mlp(x, weights, biases))
    (found,) = torch.autograd.grad(y.sum(), moving)
    (expected,) = torch.autograd.grad(reference.mlp(x, weights, biases).sum(), moving)
    close(found, expected)


@pytest.mark.parametrize(
    "what", ["strided x", "strided weight", "negated", "nothing behind x", "expanded grad", "nothing behind grad"]
)
def test_memory_of_every_kind(what: str) -> None:
    x, weights, biases = chain("ragged")
    if what == "strided x":
        x = torch.stack([x, x + 1], dim=1)[:, 0]
    elif what == "strided weight":
        weights[1] = weights[1].T.contiguous().T
    elif what == "negated":
        x = torch._neg_view(x)
    elif what == "nothing behind x":
        x = torch._efficientzerotensor(x.shape)
    weights[0].requires_grad_()
    y, expected = mlp(x, weights, biases), reference.mlp(x, weights, biases)
    close(y, expected)
    grad = torch.ones(1, 1).expand_as(y) if what == "expanded grad" else torch.randn_like(y)
    grad = torch._efficientzerotensor(y.shape) if what == "nothing behind grad" else grad
    (found,) = torch.autograd.grad(y, weights[0], grad)
    close(found, torch.autograd.grad(expected, weights[0], grad.double())[0])


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e18])
def test_zero_tiny_and_huge(scale: float) -> None:
    x, weights, biases = chain("ragged")
    biases = [0 * b for b in biases]
    close(mlp(scale * x, weights, biases), reference.mlp(scale * x, weights, biases))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(value: float) -> None:
    x, weights, biases = chain("ragged")
    x[2, 5] = value
    weights[0].requires_grad_()
    y = mlp(x, weights, biases)
    expected = reference.mlp(x, weights, biases)
    assert torch.equal(y.isfinite(), expected.isfinite())
    assert torch.equal(y.isnan(), expected.isnan())
    found = torch.autograd.grad(y.sum(), weights[0])[0]
    assert torch.equal(found.isnan(), torch.autograd.grad(expected.sum(), weights[0])[0].isnan())


@pytest.mark.parametrize("what", ["nothing", "its weights", "its input"])
def test_a_neuron_that_no_gradient_comes_to(what: str) -> None:
    """Zero times infinity is NaN there too."""
    x, weights, biases = chain("ragged")
    x, weights[0][5], biases[0][5] = x.abs(), -1.0, -1.0
    if what == "its weights":
        weights[0][5, 3] = -torch.inf
    elif what == "its input":
        x[:, 2] = torch.inf
        weights[0][:, 2] = -1.0
    mine, theirs = leaves(x, *weights, *biases), [t.double() for t in leaves(x, *weights, *biases)]
    layers = len(weights)
    y = mlp(mine[0], mine[1 : 1 + layers], mine[1 + layers :])
    found = torch.autograd.grad(y.sum(), mine)
    expected = torch.autograd.grad(reference.mlp(theirs[0], theirs[1 : 1 + layers], theirs[1 + layers :]).sum(), theirs)
    assert bool((found[1][5] == 0).all()) == (what != "its input")
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        close(a.nan_to_num(), b.nan_to_num())


def test_a_row_has_the_same_bits_whatever_stands_beside_it_and_for_any_number_of_threads(isa: str) -> None:
    if isa == "baseline":
        pytest.skip("torch's operators run, which promise no such thing")
    rows = 300
    x, weights, biases = torch.randn(rows, 401), [torch.randn(203, 401), torch.randn(99, 203)], [None, None]
    whole = mlp(x, weights, biases)
    for part in (slice(0, 1), slice(3, 8), slice(100, 299)):
        assert torch.equal(mlp(x[part], weights, biases), whole[part])
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            mine = leaves(x, *weights)
            y = mlp(mine[0], mine[1:], biases)
            found.append([y, *torch.autograd.grad(y.square().sum(), mine)])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


def test_second_derivatives() -> None:
    x, weights, biases = chain("ragged")
    slopes = []
    for run, given in ((mlp, leaves(x, *weights)), (reference.mlp, [t.double() for t in leaves(x, *weights)])):
        y = run(given[0], given[1:], biases)  # type: ignore[operator]
        first = torch.autograd.grad(y.square().sum(), given, create_graph=True)
        slopes.append(torch.autograd.grad(sum((g**2).sum() for g in first), given))  # type: ignore[arg-type]
    for a, b in zip(*slopes, strict=True):
        close(a, b)


def test_transforms_compilers_and_modes() -> None:
    x, weights, biases = chain("ragged")
    expected = reference.mlp(x, weights, biases)
    close(torch.func.vmap(lambda row: mlp(row[None], weights, biases)[0])(x), expected)
    slope = torch.func.grad(lambda v: mlp(v, weights, biases).sum())(x)
    close(slope, torch.func.grad(lambda v: reference.mlp(v, weights, biases).sum())(x.double()))
    _, along = torch.func.jvp(lambda v: mlp(v, weights, biases), (x,), (x,))
    close(along, torch.func.jvp(lambda v: reference.mlp(v, weights, biases), (x.double(),), (x.double(),))[1])
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(mlp(forward_ad.make_dual(x, x), weights, biases))
        assert dual.tangent is not None
        assert torch.equal(dual.tangent, along)
    close(torch.compile(mlp, backend="eager", fullgraph=True)(x, weights, biases), expected)
    traced = torch.jit.trace(lambda v: mlp(v, weights, biases), x, check_trace=False)
    close(traced(2 * x), reference.mlp(2 * x, weights, biases))
    with Functions() as functions:
        close(mlp(x, weights, biases), expected)
    assert functions.names.count("linear") == len(weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mlp(x, weights, biases).dtype == torch.bfloat16


class Functions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_a_mode_sees_the_ops_and_changes_no_bit(isa: str) -> None:
    x, weights, biases = chain("ragged")
    target, sizes = torch.zeros(len(x), dtype=torch.int64), [4, 17]

    def run() -> list[Tensor]:
        mine = leaves(x, *weights)
        y = mlp(mine[0], mine[1:], biases)
        found = mlp_losses(x, weights, biases, target, sizes)
        back = mlp_backward(x, weights, found.hidden, found.of_logits)
        slopes = torch.autograd.grad(y.sum(), mine)
        return [y, *slopes, found.losses, *back.weights, *back.biases]  # type: ignore[list-item]

    plain = run()
    with Seen() as seen:
        observed = run()
    assert all(map(torch.equal, plain, observed))
    assert isa == "baseline" or {"mlp_forward", "mlp_backward", "softmax_losses"} <= set(seen.names)


def test_the_ops_say_what_they_give(isa: str) -> None:
    if isa == "baseline":
        pytest.skip("they are not called there")
    x, weights, biases = chain("ragged")
    hidden = torch.ops.pcl.mlp_forward(x, weights, biases, False)
    wanted = [i % 2 == 0 for i in range(2 * len(weights))]
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (torch.ops.pcl.mlp_forward, (x, weights, biases, True)),
        (torch.ops.pcl.softmax_losses, (hidden[-1], torch.zeros(len(x), dtype=torch.int64), [4, 17], [1.0, 0.5])),
        (torch.ops.pcl.mlp_backward, (x, weights, hidden[:-1], hidden[-1], None, wanted, 0, True)),
    ]
    for op, given in calls:
        torch.library.opcheck(op.default, given, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.gpu
def test_on_a_gpu_it_is_made_of_torchs_operators() -> None:
    x, weights, biases = chain("ragged")
    there = [[t.cuda() for t in part] for part in ([x], weights, biases)]
    target, sizes = torch.zeros(len(x), dtype=torch.int64), [4, 17]
    close(mlp(there[0][0], *there[1:]).cpu(), reference.mlp(x, weights, biases))
    here, found = mlp_losses(x, weights, biases, target, sizes), mlp_losses(*there[0], *there[1:], target.cuda(), sizes)
    close(found.losses.cpu(), here.losses)
    back = mlp_backward(x, weights, here.hidden, here.of_logits)
    for a, b in zip(
        mlp_backward(*there[0], there[1], found.hidden, found.of_logits).weights, back.weights, strict=True
    ):
        assert a is not None
        assert b is not None
        close(a.cpu(), b)


@pytest.mark.parametrize("name", CHAINS)
def test_losses_and_their_gradients(name: str) -> None:
    x, weights, biases = chain(name)
    rows, columns = len(x), len(weights[-1])
    target = torch.arange(rows) % columns
    sizes = [rows] if rows == 1 else [1, rows - 1]
    weighing = torch.linspace(0.5, 2, len(sizes))
    found = mlp_losses(x, weights, biases, target, sizes)
    scale = weighing.repeat_interleave(torch.tensor(sizes))
    back = mlp_backward(x, weights, found.hidden, found.of_logits, scale=scale)

    mine = [t.double() for t in leaves(*weights, *biases)]
    layers = len(weights)
    hidden = reference.mlp(x, mine[: layers - 1], mine[layers:-1]) if layers > 1 else x.double()
    logits = hidden @ mine[layers - 1].T + mine[-1]
    blocks = zip(logits.split(sizes), target.split(sizes), strict=True)
    losses = torch.stack([cross_entropy(z, y) for z, y in blocks])
    close(found.losses, losses)
    close(found.logits, logits)
    for i, (below, above) in enumerate(zip(found.hidden, [x, *found.hidden], strict=False)):
        close(below, reference.mlp(above, [weights[i]], [biases[i]]))
    top = [mine[layers - 1], mine[-1]]
    plain = torch.autograd.grad(losses.sum(), top, retain_graph=True)
    of_blocks = torch.autograd.grad((losses * weighing).sum(), mine)
    expected = [*of_blocks[: layers - 1], plain[0], *of_blocks[layers:-1], plain[1]]
    for a, b in zip([*back.weights, *back.biases], expected, strict=True):
        assert a is not None
        close(a, b)
    for delta, bias in zip(back.deltas, back.biases, strict=False):
        assert bias is not None
        close(delta.sum(dim=0), bias)

    some = [i % 2 == 0 for i in range(2 * layers)]
    part = mlp_backward(x, weights, found.hidden, found.of_logits, scale=scale, wanted=some)
    for a, b, needed in zip([*part.weights, *part.biases], [*back.weights, *back.biases], some, strict=True):
        assert a is None if not needed else torch.equal(a, b)  # type: ignore[arg-type]


def test_operands_are_looked_at_alike_with_an_older_torch(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    """Which C++ cannot ask."""

    class Other(Tensor):
        pass

    x, (w, v), (b, c) = torch.ones(6, 4), (torch.ones(3, 4), torch.ones(5, 3)), (torch.ones(3), torch.ones(5))
    behind, scale = [torch.ones(6, 3), torch.ones(6, 5)], torch.ones(6)
    usual: list[Any] = [x, [w, v], [b, c], behind, scale]
    cases = [usual, [x, (w, v), None], [torch.ones(4, 6).T, [w], [None]], [x, [w, v], [None, c], None, scale]]
    for place, wrong in (
        (0, [x.double(), x[:0], x.to("meta"), torch._neg_view(x), x[0], x[:, 1:], x.as_subclass(Other)]),
        (1, [[], [w], [w, v, v], [w, v.T], [w.T, v], [w, v.half()], [w, v[:, :2]], [w, torch.ones(3, 5).T], [b, v]]),
        (2, [[], [b], [b, c, c], [b, b], [b[:, None], c], [b, torch.ones(10)[::2]], [b, torch._neg_view(c)]]),
        (3, [[], behind[:1], behind[::-1], [behind[0], behind[1][1:]], [behind[0], behind[1][:, :, None]]]),
        (4, [scale[1:], scale[:, None], scale.double(), torch._efficientzerotensor((6,)), torch.ones(12)[::2]]),
    ):
        cases += [[*usual[:place], given, *usual[place + 1 :]] for given in wrong]
    cases.append([torch.nn.Parameter(x), [torch.nn.Parameter(w), v], [b, c[:]]])
    found = [fits(*case) for case in cases]
    good = isa != "baseline"
    assert found == [good] * 4 + [False] * (len(cases) - 5) + [good]
    monkeypatch.setattr(sys.modules["pcl_kernels.mlp.compiled"], "READ_IN_CPP", False)
    assert found == [fits(*case) for case in cases]


@pytest.mark.parametrize("name", CHAINS)
def test_the_derivative_of_the_rows(name: str) -> None:
    x, weights, biases = chain(name)
    found = mlp_losses(x, weights, biases, torch.arange(len(x)) % len(weights[-1]), [len(x)])
    scale = torch.linspace(0.5, 2, len(x))
    nothing = [False] * (2 * len(weights))
    back = mlp_backward(x, weights, found.hidden, found.of_logits, scale=scale, wanted=nothing, of_x=True)
    delta = found.of_logits.double() @ weights[-1].double() * scale[:, None]
    for h, w in zip(reversed(found.hidden), reversed(weights[:-1]), strict=True):
        delta = (delta * (h > 0)) @ w.double()
    assert back.x is not None
    close(back.x, delta)
    assert [*back.weights, *back.biases] == [None] * (2 * len(weights))
    assert mlp_backward(x, weights, found.hidden, found.of_logits).x is None


def test_shapes_that_do_not_fit_are_refused_before_the_kernel() -> None:
    x, (w, v), (b, c) = torch.randn(4, 30), (torch.randn(50, 30), torch.randn(5, 50)), (torch.zeros(50), torch.zeros(5))
    h, z = torch.randn(4, 50), torch.randn(4, 5)
    with pytest.raises(ValueError, match="mlp_descend: expected as many biases"):
        mlp_descend(x, [w, v], [], [h], z, lr=0.1)
    with pytest.raises(ValueError, match=r"mlp_descend: layer 2: expected a bias \(5,\)"):
        mlp_descend(x, [w, v], [b, b], [h], z, lr=0.1)
    with pytest.raises(ValueError, match="mlp_descend: expected out"):
        mlp_descend(x, [w, v], [b, c], [h], z, lr=0.1, out=[w, v, b])
    for hidden, of_logits, scale in (([h[:1, :2]], z, None), ([], z, None), ([h], z[:, 1:], None), ([h], z, z[0])):
        with pytest.raises(ValueError, match="mlp_backward: expected hidden layers"):
            mlp_backward(x, [w, v], hidden, of_logits, scale=scale)
        with pytest.raises(ValueError, match="mlp_descend: expected hidden layers"):
            mlp_descend(x, [w, v], [b, c], hidden, of_logits, lr=0.1, scale=scale)
    with pytest.raises(ValueError, match="mlp_backward: layer 1"):
        mlp_backward(x[:, 1:], [w, v], [h], z)
    with pytest.raises(ValueError, match="wanted"):
        mlp_backward(x, [w, v], [h], z, wanted=[True])


def test_logits_far_apart() -> None:
    x, weight = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1e4], [-1e4], [0.0]])
    found = mlp_losses(x, [weight], [None], torch.tensor([0, 0]), [1, 1])
    assert found.losses.tolist() == [0.0, 2e4]
    assert found.of_logits.tolist() == [[0.0, 0.0, 0.0], [-1.0, 1.0, 0.0]]
    assert not mlp_losses(x * torch.nan, [weight], [None], torch.tensor([0, 0]), [2]).losses.isfinite().any()


@pytest.mark.parametrize("in_cpp", [True, False])
def test_what_is_refused(in_cpp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["pcl_kernels.mlp.compiled"], "READ_IN_CPP", in_cpp and READ_IN_CPP)
    x, (first, second), (b, c) = (
        torch.randn(4, 3),
        (torch.randn(5, 3), torch.randn(2, 5)),
        (torch.zeros(5), torch.zeros(2)),
    )
    y = torch.zeros(4, dtype=torch.int64)
    for wrong_x, wrong_weights in (([1.0], [first]), (None, [first]), (x, [None])):
        with pytest.raises(TypeError, match="mlp: expected a tensor x"):
            mlp(wrong_x, wrong_weights, [b])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="mlp_backward: expected a tensor x"):
            mlp_backward(wrong_x, wrong_weights, [], torch.ones(4, 5))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="len"):
        mlp(x, (w for w in [first]), [b])  # type: ignore[arg-type]
    for wrong_weights in ([torch.tensor(1.0)], [first[0]], first):
        with pytest.raises(ValueError, match="mlp: "):
            mlp(x, wrong_weights, [b])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="as many biases as weights"):
        mlp(x, [first], [])
    with pytest.raises(ValueError, match="at least 1"):
        mlp(x, [], [])
    with pytest.raises(ValueError, match=r"layer 2: .*weight \(m, 5\).*\(2, 4\)"):
        mlp(x, [first, second[:, :4]], [b, c])
    with pytest.raises(ValueError, match="layer 1"):
        mlp(x[0], [first], [b])
    with pytest.raises(ValueError, match=r"bias \(2,\), got \(5,\)"):
        mlp(x, [first, second], [b, b])
    with pytest.raises(TypeError, match="int64"):
        mlp_losses(x, [first], [b], y.int(), [4])
    for sizes in ([3], [4, 0], []):
        with pytest.raises(ValueError, match="blocks of at least one row"):
            mlp_losses(x, [first], [b], y, sizes)
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match="from 0 to 4"):
            mlp_losses(x, [first], [b], torch.tensor([0, wrong, 0, 0]), [4])
    found = mlp_losses(x, [first, second], [b, c], y, [4])
    with pytest.raises(ValueError, match="expected hidden layers"):
        mlp_backward(x, [first, second], [], found.of_logits)
    with pytest.raises(ValueError, match="of_logits"):
        mlp_backward(x, [first, second], found.hidden, found.of_logits[:, :1])
