"""Peak memory of one kind of step: `python -m bench.step_memory MODEL K EACH KIND` prints MB.

The peak is that of resident memory (VmHWM of /proc/self/status), which misses nothing that any library allocates; it is
counted from where the process stood after a small step of the same kind had loaded all that is loaded lazily.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch

from bench.common import resident
from bench.step_cases import Steps


def main(model: str, tasks: str, per_task: str, kind: str) -> float:
    """MB at the peak of three steps."""
    torch.set_num_threads(1)
    run(Steps(model, 2, 2), kind)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = resident("VmRSS")
    steps = Steps(model, int(tasks), int(per_task))
    for _ in range(3):
        run(steps, kind)
    return resident("VmHWM") - before


def run(steps: Steps, kind: str) -> None:
    """One step."""
    if kind in ("loop", "segment", "lowmem"):
        steps.ours(kind)  # type: ignore[arg-type]
    else:
        getattr(steps, kind)()


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
