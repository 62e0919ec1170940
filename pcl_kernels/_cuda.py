"""How a small problem of csrc/cuda/ is launched: on the current stream, with its workspace; the host never waits."""

from __future__ import annotations

import torch

from pcl_kernels import _C


def launch(name: str, device: torch.device, problems: int, k: int, *arguments: float) -> None:
    """`_C.cuda_<name>(*arguments, problems, k, workspace, stream)`. Can be captured in a CUDA graph."""
    if not _C.BUILD["cuda"]:
        raise RuntimeError(
            f"{name}: the tensors are on a CUDA device, but this pcl_kernels was built without CUDA. Build it "
            f"where nvcc is on the PATH (PCL_CUDA=1 pip install .), or solve on the CPU: {name}(gram.cpu(), ...)"
        )
    room = getattr(_C, f"cuda_{name}_workspace")(problems, k)
    workspace = torch.empty(room, dtype=torch.uint8, device=device)
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        getattr(_C, f"cuda_{name}")(*arguments, problems, k, workspace.data_ptr(), stream)
