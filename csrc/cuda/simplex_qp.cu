// The kernel and the launcher of simplex_qp.cuh; launch.cuh says more.
#include "simplex_qp.cuh"
#include "launch.cuh"

using namespace pcl::warp;

namespace {

__global__ void __launch_bounds__(128, 2) simplex_qp_kernel(SimplexBatch all, long batch, int k, double* workspace) {
    each_problem<SimplexMemory>(batch, k, workspace, [&](long n, double* fast, double* global) {
        simplex_qp(all, n, fast, global);
    });
}

}  // namespace

extern "C" long pcl_cuda_simplex_qp_workspace(long batch, int k) { return workspace<SimplexMemory>(batch, k); }

extern "C" int pcl_cuda_simplex_qp(const void* gram, int is_float, const double* sigma, long sigma_stride,
                                   double* lambda, double* gap, bool* active, int* pivots, int* status,
                                   long batch, int k, void* workspace, void* stream) {
    const SimplexBatch all{{gram, is_float != 0, batch, k}, sigma, sigma_stride, lambda, {gap, active, pivots, status}};
    return launch<SimplexMemory>(simplex_qp_kernel, all, batch, k, workspace, stream);
}
