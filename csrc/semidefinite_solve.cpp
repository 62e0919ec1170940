// X = A⁺B for a batch of positive semidefinite A: cuda/semidefinite_solve.cuh on a warp of one lane.
#include "cuda/semidefinite_solve.cuh"
#include "isa.hpp"
#include "qp_solve.hpp"

namespace pcl::PCL_ISA {
namespace {

struct SemidefiniteProblem {
    std::unique_ptr<double[]> fast, global;

    explicit SemidefiniteProblem(int k)
        : fast(new double[warp::SemidefiniteMemory::fast(k)]), global(new double[warp::SemidefiniteMemory::global(k)]) {
    }
};

}  // namespace

void semidefinite_solve(const double* a, const double* b, double* x, double cutoff, long batch, int k, int m,
                        int threads) {
    const warp::SemidefiniteBatch all{a, b, x, cutoff, batch, k, m};
    for_each_problem<SemidefiniteProblem>(batch, k, threads, [&](SemidefiniteProblem& problem, long n) {
        warp::semidefinite_solve(all, n, problem.fast.get(), problem.global.get());
        return Status::solved;
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(void semidefinite_solve(const double* a, const double* b, double* x, double cutoff, long batch, int k,
                                      int m, int threads);)

namespace pcl {

void register_semidefinite_solve(nanobind::module_& m) {
    using Address = std::uintptr_t;
    m.def("semidefinite_solve", [](Address a, Address b, Address x, double cutoff, long batch, int k, int columns,
                                   int threads) {
        nanobind::gil_scoped_release release;
        PCL_BEST(semidefinite_solve)(reinterpret_cast<const double*>(a), reinterpret_cast<const double*>(b),
                                     reinterpret_cast<double*>(x), cutoff, batch, k, columns, threads);
    });
}

}  // namespace pcl
#endif
