// How the solvers of one problem a warp are spread over the device. Their kernels read
//
//     __global__ void __launch_bounds__(128, 2) op_kernel(OpBatch all, long batch, int k, double* workspace) {
//         each_problem<OpMemory>(batch, k, workspace, [&](long n, double* fast, double* global) {...});
//     }
//
// Two blocks a multiprocessor: told nothing, ptxas spills registers to fit more.
#pragma once

#include <cuda_runtime_api.h>

#include "gramian.cuh"

namespace PCL_WARP_NAMESPACE {

// Blocks of several warps fill a multiprocessor with few blocks; large tableaus leave room for one in 48 KiB.
constexpr PCL_BOTH int warps_per_block(int k) { return k <= 32 ? 4 : 1; }
constexpr long most_warps = 4096, most_bytes = 64 << 20;

template <class Memory>
long warps(long batch, int k) {
    const long room = most_bytes / long(sizeof(double) * Memory::global(k));
    long n = batch < most_warps ? batch : most_warps;
    if (n > room) n = room > 0 ? room : 1;
    const long w = warps_per_block(k);
    return (n + w - 1) / w * w;
}

// Bytes of device memory that a launch needs to work in.
template <class Memory>
long workspace(long batch, int k) {
    return warps<Memory>(batch, k) * Memory::global(k) * long(sizeof(double));
}

// Returns a cudaError_t. All pointers are device memory; nothing here waits.
template <class Memory, class Batch>
int launch(void (*kernel)(Batch, long, int, double*), const Batch& all, long batch, int k, void* workspace,
           void* stream) {
    static_assert(4 * Memory::fast(32) <= 6144 && Memory::fast(largest_fast) <= 6144, "48 KiB of shared memory a block");
    if (batch == 0) return cudaSuccess;
    const int per_block = warps_per_block(k);
    const size_t shared = per_block * Memory::fast(k) * sizeof(double);
    const unsigned blocks = unsigned(warps<Memory>(batch, k) / per_block);
    kernel<<<blocks, per_block * LANES, shared, static_cast<cudaStream_t>(stream)>>>(
        all, batch, k, static_cast<double*>(workspace));
    return cudaGetLastError();
}

// solve(n, fast, global) for the problems n that fall to this warp, with its memory.
template <class Memory, class Solve>
PCL_DEVICE void each_problem(long batch, int k, double* workspace, const Solve& solve) {
    extern __shared__ double fast[];
    const int w = threadIdx.x / LANES, per_block = blockDim.x / LANES;
    const long warp = long(blockIdx.x) * per_block + w, warps = long(gridDim.x) * per_block;
    for (long n = warp; n < batch; n += warps) solve(n, fast + w * Memory::fast(k), workspace + warp * Memory::global(k));
}

}  // namespace PCL_WARP_NAMESPACE
