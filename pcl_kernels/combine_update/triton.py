"""The fused updates on the GPU: plain numbers become the settings tensors that the Triton kernels read."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcl_kernels._pointers import upload

#: imported by name: this module is loaded only where CUDA tensors arrive, and triton with it
kernels: Any = importlib.import_module("pcl_kernels.combine.triton")


def _settings(values: list[float], device: torch.device) -> Tensor:
    """On the device without waiting for it; a captured graph keeps them as they are."""
    return upload(values, torch.float64, device)


def combine_sgd_(
    params: Sequence[Tensor],
    buffers: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    weights: Tensor,
    tasks: int,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    first_step: bool,
) -> None:
    if first_step and buffers:
        torch._foreach_zero_(list(buffers))
    fresh = 1.0 if first_step else 1.0 - dampening
    settings = _settings([lr, momentum, fresh, weight_decay], weights.device)
    kernels.combine_sgd(grads, weights, tasks, params, list(buffers) or None, settings, nesterov)


def combine_adamw_(
    params: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    weights: Tensor,
    tasks: int,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    keep, penalty = (1.0 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
    root = float((1.0 - beta2**step) ** 0.5)
    values = [keep, penalty, beta1, beta2, lr / (1.0 - beta1**step), root, eps]
    settings = _settings(values, weights.device)
    kernels.combine_adamw(grads, weights, tasks, params, exp_avgs, exp_avg_sqs, settings)
