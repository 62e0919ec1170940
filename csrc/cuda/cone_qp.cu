// The kernel and the launcher of cone_qp.cuh; launch.cuh says more.
#include "cone_qp.cuh"
#include "launch.cuh"

using namespace pcl::warp;

namespace {

__global__ void __launch_bounds__(128, 2) cone_qp_kernel(ConeBatch all, long batch, int k, double* workspace) {
    each_problem<ConeMemory>(batch, k, workspace, [&](long n, double* fast, double* global) {
        cone_qp(all, n, fast, global);
    });
}

}  // namespace

extern "C" long pcl_cuda_cone_qp_workspace(long batch, int k) { return workspace<ConeMemory>(batch, k); }

extern "C" int pcl_cuda_cone_qp(const void* gram, int is_float, const double* b, long b_stride, double* v,
                                double* gap, bool* active, int* pivots, int* status,
                                long batch, int k, void* workspace, void* stream) {
    const ConeBatch all{{gram, is_float != 0, batch, k}, b, b_stride, v, {gap, active, pivots, status}};
    return launch<ConeMemory>(cone_qp_kernel, all, batch, k, workspace, stream);
}
