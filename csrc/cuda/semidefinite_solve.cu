// The kernel and the launcher of semidefinite_solve.cuh; launch.cuh says more.
#include "semidefinite_solve.cuh"
#include "launch.cuh"

using namespace pcl::warp;

namespace {

__global__ void __launch_bounds__(128, 2) semidefinite_solve_kernel(SemidefiniteBatch all, long batch, int k, double* workspace) {
    each_problem<SemidefiniteMemory>(batch, k, workspace, [&](long n, double* fast, double* global) {
        semidefinite_solve(all, n, fast, global);
    });
}

}  // namespace

extern "C" long pcl_cuda_semidefinite_solve_workspace(long batch, int k) { return workspace<SemidefiniteMemory>(batch, k); }

extern "C" int pcl_cuda_semidefinite_solve(const double* a, const double* b, double* x, double cutoff, int rows,
                                           long batch, int k, void* workspace, void* stream) {
    const SemidefiniteBatch all{a, b, x, cutoff, batch, k, rows};
    return launch<SemidefiniteMemory>(semidefinite_solve_kernel, all, batch, k, workspace, stream);
}
