// The bargaining system of Nash-MTL and FairGrad for a batch of Gramians: cuda/nash_mtl.cuh on a warp of one lane.
#include "cuda/nash_mtl.cuh"
#include "isa.hpp"
#include "qp_solve.hpp"

namespace pcl::PCL_ISA {
namespace {

struct NashProblem {
    std::unique_ptr<double[]> fast, global;

    explicit NashProblem(int k)
        : fast(new double[warp::NashMemory::fast(k)]), global(new double[warp::NashMemory::global(k)]) {}
};

}  // namespace

long nash_mtl(const void* gram, bool is_float, double alpha, const double* preference, long preference_stride,
              double* out, const SystemInfo& info, long batch, int k, int threads) {
    const warp::NashBatch all{{gram, is_float, batch, k}, alpha, preference, preference_stride, out, info};
    return for_each_problem<NashProblem>(batch, k, threads, [&](NashProblem& problem, long n) {
        return warp::nash_mtl(all, n, problem.fast.get(), problem.global.get());
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(long nash_mtl(const void* gram, bool is_float, double alpha, const double* preference,
                            long preference_stride, double* out, const SystemInfo& info, long batch, int k,
                            int threads);)

namespace pcl {

void register_nash_mtl(nanobind::module_& m) {
    using Address = std::uintptr_t;
    m.def("nash_mtl", [](Address gram, bool is_float, double alpha, Address preference, long preference_stride,
                         Address out, Address residual, Address status, long batch, int k, int threads) {
        const SystemInfo info{reinterpret_cast<double*>(residual), reinterpret_cast<std::int32_t*>(status)};
        nanobind::gil_scoped_release release;
        return PCL_BEST(nash_mtl)(reinterpret_cast<const void*>(gram), is_float, alpha,
                                  reinterpret_cast<const double*>(preference), preference_stride,
                                  reinterpret_cast<double*>(out), info, batch, k, threads);
    });
}

}  // namespace pcl
#endif
