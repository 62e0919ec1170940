// The kernel and the launcher of imtl_g.cuh; launch.cuh says more.
#include "imtl_g.cuh"
#include "launch.cuh"

using namespace pcl::warp;

namespace {

__global__ void __launch_bounds__(128, 2) imtl_g_kernel(ImtlBatch all, long batch, int k, double* workspace) {
    each_problem<ImtlMemory>(batch, k, workspace, [&](long n, double* fast, double* global) {
        imtl_g(all, n, fast, global);
    });
}

}  // namespace

extern "C" long pcl_cuda_imtl_g_workspace(long batch, int k) { return workspace<ImtlMemory>(batch, k); }

extern "C" int pcl_cuda_imtl_g(const void* gram, int is_float, double* alpha, double* residual, int* status,
                               long batch, int k, void* workspace, void* stream) {
    const ImtlBatch all{{gram, is_float != 0, batch, k}, alpha, {residual, status}};
    return launch<ImtlMemory>(imtl_g_kernel, all, batch, k, workspace, stream);
}
