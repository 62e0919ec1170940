// PCGrad and GradVac for a batch of Gramians: cuda/pcgrad.cuh on a warp of one lane.
#include "cuda/pcgrad.cuh"
#include "isa.hpp"
#include "qp_solve.hpp"

namespace pcl::PCL_ISA {
namespace {

struct WalkProblem {
    std::unique_ptr<double[]> fast, global;

    explicit WalkProblem(int k)
        : fast(new double[warp::WalkMemory::fast(k)]), global(new double[warp::WalkMemory::global(k)]) {}
};

}  // namespace

long pcgrad(const void* gram, bool is_float, const Walk& walk, long batch, int k, int threads) {
    const warp::WalkBatch all{{gram, is_float, batch, k}, walk};
    return for_each_problem<WalkProblem>(batch, k, threads, [&](WalkProblem& problem, long n) {
        return warp::walk(all, n, problem.fast.get(), problem.global.get());
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(long pcgrad(const void* gram, bool is_float, const Walk& walk, long batch, int k, int threads);)

namespace pcl {

void register_pcgrad(nanobind::module_& m) {
    using Address = std::uintptr_t;
    m.def("pcgrad", [](Address gram, bool is_float, bool one_gram, Address order, long order_stride, int width,
                       Address target, long target_stride, double beta, Address moved, Address weights, long batch,
                       int k, int threads) {
        const Walk walk{one_gram, reinterpret_cast<const std::int64_t*>(order), order_stride, width,
                        reinterpret_cast<const double*>(target), target_stride, beta,
                        reinterpret_cast<double*>(moved), reinterpret_cast<double*>(weights)};
        nanobind::gil_scoped_release release;
        return PCL_BEST(pcgrad)(reinterpret_cast<const void*>(gram), is_float, walk, batch, k, threads);
    });
}

}  // namespace pcl
#endif
