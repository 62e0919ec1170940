// The kernel and the launcher of simplex_qp.cuh.
#include <cuda_runtime_api.h>

#include "simplex_qp.cuh"

namespace {

using namespace pcl::warp;

// Blocks of several warps fill a multiprocessor with few blocks; large tableaus leave room for one in 48 KiB.
constexpr PCL_BOTH int warps_per_block(int k) { return k <= 32 ? 4 : 1; }
constexpr long most_warps = 4096, most_bytes = 64 << 20;

long warps(long batch, int k) {
    const long room = most_bytes / long(sizeof(double) * SimplexMemory::global(k));
    long n = batch < most_warps ? batch : most_warps;
    if (n > room) n = room > 0 ? room : 1;
    const long w = warps_per_block(k);
    return (n + w - 1) / w * w;
}

// Two blocks a multiprocessor: told nothing, ptxas spills registers to fit more.
__global__ void __launch_bounds__(128, 2) simplex_qp_kernel(SimplexBatch all, double* workspace) {
    extern __shared__ double fast[];
    const int w = threadIdx.x / LANES, per_block = blockDim.x / LANES;
    const long warp = long(blockIdx.x) * per_block + w, warps = long(gridDim.x) * per_block;
    for (long b = warp; b < all.batch; b += warps)
        simplex_qp(all, b, fast + w * SimplexMemory::fast(all.k), workspace + warp * SimplexMemory::global(all.k));
}

}  // namespace

// Bytes of device memory that a launch needs to work in.
extern "C" long pcl_cuda_simplex_qp_workspace(long batch, int k) {
    return warps(batch, k) * SimplexMemory::global(k) * long(sizeof(double));
}

// Returns a cudaError_t. All pointers are device memory; nothing here waits.
extern "C" int pcl_cuda_simplex_qp(const void* gram, int is_float, const double* sigma, long sigma_stride,
                                   double* lambda, double* gap, bool* active, int* pivots, int* status, long batch,
                                   int k, void* workspace, void* stream) {
    if (batch == 0) return cudaSuccess;
    const SimplexBatch all{gram, is_float != 0, sigma, sigma_stride, lambda, {gap, active, pivots, status}, batch, k};
    const int per_block = warps_per_block(k);
    const size_t shared = per_block * SimplexMemory::fast(k) * sizeof(double);
    const unsigned blocks = unsigned(warps(batch, k) / per_block);
    simplex_qp_kernel<<<blocks, per_block * LANES, shared, static_cast<cudaStream_t>(stream)>>>(
        all, static_cast<double*>(workspace));
    return cudaGetLastError();
}
