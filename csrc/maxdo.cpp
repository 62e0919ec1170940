// MaxDO's min over the simplex of max_i ‖d - g_i‖²/‖g_i‖² for a batch of Gramians: the search of
// cuda/maxdo_search.cuh on a warp of one lane, with the active set solver of the processor.
#include "cuda/maxdo_search.cuh"
#include "isa.hpp"
#include "qp_solve.hpp"

namespace pcl::PCL_ISA {
namespace {

struct MaxDoProblem {
    Workspace work;
    std::unique_ptr<int[]> e;
    std::unique_ptr<double[]> d, one, s, low, high;
    double eps = 0;
    bool second_look = false;

    explicit MaxDoProblem(int k)
        : work(k), e(new int[k]), d(new double[k]), one(new double[k]), s(new double[k]), low(new double[k]),
          high(new double[k]) {}

    const double* C() const { return reinterpret_cast<const double*>(work.arrays.C); }
    long ld() const { return long(work.nv) * W; }
    double diagonal(int i) const { return C()[i * ld() + i]; }

    double times(int i, const double* x) const {
        double total = 0;
        for (int j = 0; j < work.k; ++j) total += C()[i * ld() + j] * x[j];
        return total;
    }

    void solve(const double* s, double* x, int& pivots) {
        double *q = reinterpret_cast<double*>(work.arrays.q), *step = reinterpret_cast<double*>(work.arrays.step);
        for (int i = 0; i < work.k; ++i) q[i] = s[i];
        for (long i = work.k; i < ld(); ++i) q[i] = 0.0;
        const Outcome done = minimise(work.arrays, work.k, work.nv, {true, eps});
        pivots += done.pivots;
        for (int i = 0; i < work.k; ++i) x[i] = step[i];
        // A float32 Gramian has not the digits that a second look would bring out.
        if (!done.solved && second_look) simplex_exactly(work.k, C(), ld(), s, x, pivots);
    }

    template <class T>
    Status run(const T* G, double* w, const QpInfo& info, long n) {
        const int k = work.k;
        if (!scale_gramian(G, k, work.arrays, work.nv, e.get(), d.get())) return Status::not_finite;
        int zeros = 0, lowest = e[0], highest = e[0];
        for (int i = 0; i < k; ++i) {
            if (diagonal(i) < 0) return Status::negative_diagonal;
            zeros += diagonal(i) == 0;
            lowest = e[i] < lowest ? e[i] : lowest;
            highest = e[i] > highest ? e[i] : highest;
        }
        if (zeros) {
            for (int i = 0; i < k; ++i) w[i] = diagonal(i) == 0 ? 1.0 / zeros : 0.0;
            info.write(n, k, w, 0.0, 0, Status::solved);
            return Status::solved;
        }
        for (int i = 0; i < k; ++i) one[i] = pow2(e[i] - lowest - (highest - lowest) / 2);
        eps = std::numeric_limits<T>::epsilon();
        second_look = sizeof(T) == sizeof(double);
        warp::MaxDoSearch<MaxDoProblem> search{*this, k, eps, one.get(), w, s.get(), low.get(), high.get()};
        search.run();
        const double gap = search.finish();
        for (int i = 0; i < k; ++i) w[i] *= one[i];
        const Status status = gap <= warp::maxdo_certified ? Status::solved : Status::inexact;
        info.write(n, k, w, gap, search.pivots, status);
        return status;
    }
};

template <class T>
long run(const T* gram, double* out, const QpInfo& info, long batch, int k, int threads) {
    return for_each_problem<MaxDoProblem>(batch, k, threads, [&](MaxDoProblem& problem, long n) {
        return problem.run(gram + n * k * k, out + n * k, info, n);
    });
}

}  // namespace

long maxdo(const void* gram, bool is_float, double* out, const QpInfo& info, long batch, int k, int threads) {
    if (is_float) return run(static_cast<const float*>(gram), out, info, batch, k, threads);
    return run(static_cast<const double*>(gram), out, info, batch, k, threads);
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(long maxdo(const void* gram, bool is_float, double* out, const QpInfo& info, long batch, int k,
                         int threads);)

namespace pcl {

void register_maxdo(nanobind::module_& m) {
    using Address = std::uintptr_t;
    m.def("maxdo", [](Address gram, bool is_float, Address out, Address gap, Address active, Address pivots,
                      Address status, long batch, int k, int threads) {
        const QpInfo info{reinterpret_cast<double*>(gap), reinterpret_cast<bool*>(active),
                          reinterpret_cast<std::int32_t*>(pivots), reinterpret_cast<std::int32_t*>(status)};
        nanobind::gil_scoped_release release;
        return PCL_BEST(maxdo)(reinterpret_cast<const void*>(gram), is_float, reinterpret_cast<double*>(out), info,
                               batch, k, threads);
    });
}

}  // namespace pcl
#endif
