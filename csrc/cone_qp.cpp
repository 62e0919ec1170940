// min 1/2 vᵀGv + vᵀb over v >= 0, for a batch of Gramians: the core of qp_core.hpp without an equality.
#include "isa.hpp"
#include "qp_solve.hpp"

namespace pcl::PCL_ISA {
namespace {

enum ConeStatus { cone_solved = 0, cone_inexact = 1, cone_not_finite = 2, cone_negative_diagonal = 3, cone_unbounded = 4 };

struct ConeInfo {
    std::int32_t *pivots, *status;
};

struct ConeProblem {
    Workspace work;
    std::unique_ptr<int[]> e;
    std::unique_ptr<double[]> d;

    explicit ConeProblem(int k) : work(k), e(new int[k]), d(new double[k]) {}

    template <class T>
    int solve(const T* G, const double* b, double* out, int& pivots) {
        const int k = work.k;
        const Arrays& a = work.arrays;
        double *C = reinterpret_cast<double*>(a.C), *q = reinterpret_cast<double*>(a.q);
        const double* x = reinterpret_cast<const double*>(a.step);
        const long ld = long(work.nv) * W;
        const double eps = std::numeric_limits<T>::epsilon();
        pivots = 0;

        if (!scale_gramian(G, k, a, work.nv, e.get(), d.get())) return cone_not_finite;
        for (int i = 0; i < k; ++i) {
            if (!(b[i] - b[i] == 0)) return cone_not_finite;
            if (C[i * ld + i] < 0) return cone_negative_diagonal;
        }
        // Scale -Db to about one. Where g_i is zero, v_i costs nothing: b_i decides between 0 and infinity.
        int E = std::numeric_limits<int>::min();
        for (int i = 0; i < k; ++i) {
            out[i] = 0.0;
            if (C[i * ld + i] == 0) {
                if (b[i] < 0) return cone_unbounded;
                C[i * ld + i] = 1.0;
                q[i] = -1.0;  // a variable that stays where it is
            } else if (b[i] != 0) {
                const int ei = exponent(std::fabs(b[i])) + e[i];
                E = ei > E ? ei : E;
            }
        }
        if (E == std::numeric_limits<int>::min()) return cone_solved;
        for (int i = 0; i < k; ++i)
            if (double(G[long(i) * k + i]) > 0) q[i] = -b[i] * pow2(e[i] - E);
        for (long i = k; i < ld; ++i) q[i] = 0.0;

        Outcome done = minimise(a, k, work.nv, {false, eps});
        pivots = done.pivots;
        if (!done.solved && sizeof(T) == sizeof(double))
            done.solved = solve_exactly(k, C, ld, q, false, reinterpret_cast<double*>(a.step), pivots);
        pivots = pivots > done.pivots ? pivots : done.pivots;
        // -qᵀx >= -|Σ q_ix_i| falls without end along a direction in which xᵀCx does not grow
        double length = 0;
        for (int i = 0; i < k; ++i) length += x[i];
        if (!(length < 1.0 / (1024 * eps))) return cone_unbounded;
        for (int i = 0; i < k; ++i) out[i] = x[i] * pow2(e[i]) * pow2(E);
        return done.solved ? cone_solved : cone_inexact;
    }
};

template <class T>
long run(const T* gram, const double* b, long b_stride, double* out, const ConeInfo& info, long batch, int k,
         int threads) {
    long failed = -1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        ConeProblem problem(k);
#pragma omp for schedule(dynamic, 16)
        for (long i = 0; i < batch; ++i) {
            int pivots;
            const int status = problem.solve(gram + i * k * k, b + i * b_stride, out + i * k, pivots);
            if (info.status) info.status[i] = status, info.pivots[i] = pivots;
            if (status > cone_inexact) {
#pragma omp critical
                if (failed < 0 || i < failed / 8) failed = i * 8 + status;
            }
        }
    }
    return failed;
}

}  // namespace

long cone_qp(const void* gram, bool is_float, const double* b, long b_stride, double* out, std::int32_t* pivots,
             std::int32_t* status, long batch, int k, int threads) {
    const ConeInfo info{pivots, status};
    if (is_float) return run(static_cast<const float*>(gram), b, b_stride, out, info, batch, k, threads);
    return run(static_cast<const double*>(gram), b, b_stride, out, info, batch, k, threads);
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <pybind11/pybind11.h>

PCL_EVERY_ISA(long cone_qp(const void* gram, bool is_float, const double* b, long b_stride, double* out,
                           std::int32_t* pivots, std::int32_t* status, long batch, int k, int threads);)

namespace pcl {

void register_cone_qp(pybind11::module_& m) {
    using Address = std::uintptr_t;
    m.def("cone_qp", [](Address gram, bool is_float, Address b, long b_stride, Address out, Address pivots,
                        Address status, long batch, int k, int threads) {
        auto call = [&] {
            return PCL_BEST(cone_qp)(reinterpret_cast<const void*>(gram), is_float, reinterpret_cast<const double*>(b),
                                     b_stride, reinterpret_cast<double*>(out),
                                     reinterpret_cast<std::int32_t*>(pivots), reinterpret_cast<std::int32_t*>(status),
                                     batch, k, threads);
        };
        if (batch * k * k < 4096) return call();
        pybind11::gil_scoped_release release;
        return call();
    });
}

}  // namespace pcl
#endif
