// IMTL-G's equal projections for a batch of Gramians: cuda/imtl_g.cuh on a warp of one lane.
#include "cuda/imtl_g.cuh"
#include "isa.hpp"
#include "qp_solve.hpp"

namespace pcl::PCL_ISA {
namespace {

struct ImtlProblem {
    std::unique_ptr<double[]> fast, global;

    explicit ImtlProblem(int k)
        : fast(new double[warp::ImtlMemory::fast(k)]), global(new double[warp::ImtlMemory::global(k)]) {}
};

}  // namespace

long imtl_g(const void* gram, bool is_float, double* out, const SystemInfo& info, long batch, int k, int threads) {
    const warp::ImtlBatch all{{gram, is_float, batch, k}, out, info};
    return for_each_problem<ImtlProblem>(batch, k, threads, [&](ImtlProblem& problem, long n) {
        return warp::imtl_g(all, n, problem.fast.get(), problem.global.get());
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(long imtl_g(const void* gram, bool is_float, double* out, const SystemInfo& info, long batch, int k,
                            int threads);)

namespace pcl {

void register_imtl_g(nanobind::module_& m) {
    using Address = std::uintptr_t;
    m.def("imtl_g", [](Address gram, bool is_float, Address out, Address residual, Address status, long batch, int k,
                         int threads) {
        const SystemInfo info{reinterpret_cast<double*>(residual), reinterpret_cast<std::int32_t*>(status)};
        nanobind::gil_scoped_release release;
        return PCL_BEST(imtl_g)(reinterpret_cast<const void*>(gram), is_float, reinterpret_cast<double*>(out), info,
                                  batch, k, threads);
    });
}

}  // namespace pcl
#endif
