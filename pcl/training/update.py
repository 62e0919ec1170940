"""The update of the parameters, and how a GPU makes it without effect."""

from collections.abc import Callable, Sequence
from operator import itemgetter

import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from pcl.training.bgd import BGD


def update(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[Tensor | None],
    bad: Tensor | None,
) -> None:
    """One step of the optimizer along the gradients; parameters of the optimizer that are not named rest.

    Args:
        bad: None, or a float32 scalar on the device: where it is 1, parameters and optimizer state end as they began,
            without the host knowing. Optimizers made with ``fused=True`` leave them alone by themselves, as
            ``torch.amp.GradScaler`` has it; for others they are copied before the step and chosen after it.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None  # one frozen since the last step must not go on along its gradient
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    if bad is None and _is_plain_sgd(optimizer):
        _descend(optimizer)
    elif bad is None:
        optimizer.step()
    elif getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.grad_scale, optimizer.found_inf = None, bad  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    else:
        _step_unless(bad, optimizer, parameters)


_beyond_plain = itemgetter("momentum", "weight_decay", "nesterov", "maximize", "foreach", "fused", "differentiable")


def _is_plain_sgd(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step is p <- p - lr * grad and nothing more, and nobody watches or has replaced ``optimizer.step``."""
    return (
        type(optimizer) is torch.optim.SGD
        and "step" not in vars(optimizer)  # learning rate schedulers put their own there
        and not optimizer._optimizer_step_pre_hooks
        and not optimizer._optimizer_step_post_hooks
        and not _global_optimizer_pre_hooks
        and not _global_optimizer_post_hooks
        and not any(any(_beyond_plain(group)) for group in optimizer.param_groups)
    )


def plain_rate(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> float | None:
    """The learning rate, where :func:`update` is p <- p - lr * grad for these parameters and no other; else None."""
    if not _is_plain_sgd(optimizer):
        return None
    rates = {group["lr"] for group in optimizer.param_groups}
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    rate = rates.pop()
    return rate if not rates and isinstance(rate, float) and known == {id(p) for p in parameters} else None


@torch.no_grad()
def _descend(optimizer: torch.optim.Optimizer) -> None:
    """What torch.optim.SGD does, to the bit, without the hooks and profiling of ``Optimizer.step``."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=-group["lr"])


def _step_unless(bad: Tensor, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    changing: list[Tensor] = [p for p in parameters if p.grad is not None]
    changing += [t for t in _state(optimizer) if t.device == bad.device]
    before = [t.detach().clone() for t in changing]
    optimizer.step()
    with torch.no_grad():
        for now, then in zip(changing, before, strict=True):
            now.copy_(torch.where(bad > 0, then, now))


def _state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def optimizer_undo(optimizer: torch.optim.Optimizer, device: torch.device) -> Callable[[], None]:
    """A function that takes back what steps without effect leave on the host: counters on the CPU, new state, draws."""
    known = set(optimizer.state)
    rewind = optimizer.rewinder() if isinstance(optimizer, BGD) else None
    counters = [(t, t.clone()) for t in _state(optimizer) if t.device != device]

    def undo() -> None:
        for parameter in [p for p in optimizer.state if p not in known]:
            del optimizer.state[parameter]
        for now, then in counters:
            now.copy_(then)
        if rewind is not None:
            rewind()

    return undo
