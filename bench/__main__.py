"""All CPU benchmarks: `python -m bench`, or `make bench`; `python -m bench weightings exactness` runs two of them anew.

Prints their tables and writes bench/README.md, where every part says on which machine it was taken.
"""

import argparse
import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import bench.combine
import bench.exactness
import bench.firefly
import bench.firefly_apply
import bench.ghost_gramian
import bench.gramian
import bench.growth
import bench.logit_distance
import bench.longhorn_scan
import bench.loss_terms
import bench.memory_edit
import bench.mlp
import bench.overhead
import bench.rehearsal
import bench.simplex_qp
import bench.steps
import bench.weightings
from bench.common import machine

PREFACE = """# Benchmarks

Written by `make bench`. Peers run beside us in the same process, taking turns; times are medians. Compare ratios, not
times, and only within one table. A peer that is not installed is left out. On a GPU: `make bench-gpu`, which writes
`bench/results/<device>.json`; no such figures have been taken yet.

- `read` is the time to read the gradients' bytes once with the same threads, the floor of `gramian`; "of read speed"
  is that floor over our time.
- `read+update` reads the k gradients and updates m parameters once, the floor of the fused updates.
- a whole step: `floor` is the forward and backward flops of the plain step at the rate of a large matrix product; plain
  runs every task's batch and sums the losses, "one batch" runs them as one. EMGD is `task_gradients(strategy="auto")`;
  "k grads" calls `autograd.grad` k times and forms J @ J.T.
- peak memory is resident memory (VmHWM) of a process of its own, with a malloc that gives memory back at once.
- memory_edit: "floor by flops" is the sweep's matrix products over those of a training step, two products for every
  one that a step makes, and the per-sample kernels of convolutions; "÷ training step" is against the model as it is,
  though the sweep works in channels-last memory, in which a convolutional training step is faster too.
- mlp: "of the floor" is the time of the multiply-adds alone, in registers, over ours; it counts those too that the
  backward pass leaves out, of neurons that no sample of the batch lets through. The peer of "without a graph" is
  torch's layers, head and cross-entropy under autograd, that of a "step of descent" also updates in place.
- rehearsal: steps are measured in several processes, one after the other, as where memory happens to lie makes a tenth;
  medians over them, and the least and the largest ratio to the bare loop.
- ghost_gramian: "torch" makes the same products of rows in float64, "formed" the gradients and then their Gramian.
- logit_distance: "torch" makes the same of torch's operators for logits of which all are known, "autograd"
  differentiates `mse_loss`; the floor reads and writes as many bytes.
- growth: "plain" is forward and backward of a network in training, "over-grown" those of the network with every neuron
  split and 8 new ones in each group, to all candidates; "scores" is what all candidates' scores cost with n = 3; a
  phase is 40 steps of the candidates, scores over 4 batches, choice and rebuilding.
- firefly: "stack" is the library's product with [W; Δ] alone, against the two copies by torch; behind 3 x 3
  convolutions stands a Winograd kernel of ours, behind Linear layers a product that keeps its results in registers.
- weightings: LibMTL is timed with the gradients handed to it, in single precision; to have it beside us without the
  torchvision it asks for, `pip install --no-deps LibMTL`.
- "hard problems" are those of `tests/kernels/hard_gramians.py` with an exact rational answer, at sigma = 1.

"""


PARTS: dict[str, Callable[[], None]] = {
    "simplex_qp": bench.simplex_qp.main,
    "gramian": bench.gramian.main,
    "combine": bench.combine.main,
    "overhead": bench.overhead.main,
    "memory_edit": bench.memory_edit.main,
    "mlp": bench.mlp.main,
    "ghost_gramian": bench.ghost_gramian.main,
    "logit_distance": bench.logit_distance.main,
    "firefly": bench.firefly.main,
    "rehearsal": bench.rehearsal.main,
    "firefly_apply": bench.firefly_apply.main,
    "growth": bench.growth.main,
    "longhorn_scan": bench.longhorn_scan.main,
    "steps": bench.steps.main,
    "loss_terms": bench.loss_terms.main,
    "weightings": bench.weightings.main,
    "exactness": bench.exactness.main,
}
PAGE = Path(__file__).parent / "README.md"


def main() -> None:
    """Run all, or those that are named, and write the page; the other parts of it stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    names = parser.parse_args().parts or list(PARTS)
    unknown = set(names) - set(PARTS)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for name in names:
        part = io.StringIO()
        with contextlib.redirect_stdout(part):
            PARTS[name]()
        print(part.getvalue(), flush=True)
        written = dict(
            re.findall(r"^## (\w+)\n\n(.*?)\s*(?=^## |\Z)", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
        )
        written[name] = f"{machine()}\n\n{part.getvalue().strip()}"
        sections = "\n".join(f"## {key}\n\n{written[key]}\n" for key in PARTS if key in written)
        PAGE.write_text(PREFACE + sections)


if __name__ == "__main__":
    main()
