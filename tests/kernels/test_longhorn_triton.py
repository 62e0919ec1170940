"""The Triton kernels of the Longhorn scan, in Triton's interpreter or on a device."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.backends import BACKENDS  # before triton: tells it to interpret where there is no GPU

pytest.importorskip("triton")
from pcl_kernels.longhorn_scan import op
from pcl_kernels.longhorn_scan import triton as kernels
from tests.kernels.longhorn_cases import OPTIONS, assert_as_the_reference, problem

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
assert BACKENDS


@pytest.fixture(autouse=True)
def gpu_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU forms, on CPU tensors where there is no GPU."""
    if DEVICE == "cpu":
        monkeypatch.setattr(op, "_scan_op", kernels.scan)
        monkeypatch.setattr(op, "_scan_cpu", kernels.scan)
        monkeypatch.setattr(op, "_backward_op", kernels.backward)


SHAPES = [
    "one of everything",
    "a step over a tile",
    "packed",
    "packed groups",
    "no steps",
    "no sequences",
    "no channels",
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_scan(shape: str, options: str) -> None:
    given = problem(shape, options, torch.float32, device=DEVICE)
    assert_as_the_reference(given, given.run())


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    given = problem("groups", "everything", dtype, device=DEVICE)
    assert_as_the_reference(given, given.run())


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("memory", ["wider rows", "time first", "strided"])
def test_memory(memory: str) -> None:
    expected = problem("packed groups", "everything", torch.float32, device=DEVICE).run()
    found = problem("packed groups", "everything", torch.float32, memory=memory, device=DEVICE).run()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_several_blocks_of_channels_and_many_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """More programs than one add up dq and dk; states that are no power of two."""
    narrow = {**kernels.launch_plan(23), "BLOCK": 16}
    monkeypatch.setattr(kernels, "launch_plan", lambda _: narrow)
    given = problem("more states than go together", "everything", torch.float32, device=DEVICE)
    first, second = given.run(), given.run()
    assert_as_the_reference(given, first)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_programs_keep_their_states_in_registers() -> None:
    for states in (1, 8, 16, 23, 64, 128):
        plan = kernels.launch_plan(states)
        assert plan["STATES"] >= states
        assert plan["BLOCK"] * plan["STATES"] <= 64 * 32 * plan["num_warps"]
