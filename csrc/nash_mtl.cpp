// The α > 0 with Gα = 1/α (Nash-MTL): the minimiser of 1/2 αᵀGα - Σ log α_i.
//
// Scaled to about unit diagonal the problem keeps its form. The function is self-concordant, so Newton with the step
// 1/(1 + λ), λ its decrement, converges from anywhere, and quadratically once λ < 1/4. At a stationary point (zero in
// the convex hull of the gradients) it has no minimum and α runs away.
#include "isa.hpp"
#include "qp_solve.hpp"

namespace pcl::PCL_ISA {
namespace {

enum NashStatus { nash_solved = 0, nash_none = 1, nash_not_finite = 2, nash_negative_diagonal = 3 };

struct NashProblem {
    Workspace work;
    std::unique_ptr<int[]> e;
    std::unique_ptr<double[]> d, x, step;

    explicit NashProblem(int k) : work(k), e(new int[k]), d(new double[k]), x(new double[k]), step(new double[k]) {}

    template <class T>
    NashStatus solve(const T* G, double* out) {
        const int k = work.k;
        const double* C = reinterpret_cast<const double*>(work.arrays.C);
        const long ld = long(work.nv) * W;
        if (!scale_gramian(G, k, work.arrays, work.nv, e.get(), d.get())) return nash_not_finite;
        for (int i = 0; i < k; ++i)
            if (C[i * ld + i] < 0) return nash_negative_diagonal;
        const NashStatus status = newton(C, ld, std::numeric_limits<T>::epsilon());
        for (int i = 0; i < k; ++i) out[i] = status == nash_solved ? x[i] * pow2(e[i]) : std::nan("");
        return status;
    }

  private:
    NashStatus newton(const double* C, long ld, double eps) {
        const int k = work.k;
        for (int i = 0; i < k; ++i) x[i] = 1.0 / std::sqrt(double(k));
        // xᵀCx = k at the solution, so an x this long cancels to within the rounding of C
        const double runaway = std::sqrt(k / (64 * eps));
        for (int n = 0; n < 500; ++n) {
            const double decrement = newton_step(C, ld);
            if (!(decrement >= 0)) return nash_none;  // NaN: not positive definite
            const double t = decrement < 0.25 ? 1.0 : 1.0 / (1.0 + decrement);
            double longest = 0;
            for (int i = 0; i < k; ++i) {
                x[i] += t * step[i];
                longest = std::fmax(longest, x[i]);
            }
            if (longest > runaway) return nash_none;
            if (decrement < 1e-9) return nash_solved;  // the step just taken has squared it
        }
        return nash_none;
    }

    // Solves (X C X + 1) u = 1 - X C x by Cholesky, X = diag(x): the Newton step in relative terms, where the matrix
    // has eigenvalues of at least 1. step = Xu; returns the decrement.
    double newton_step(const double* C, long ld) {
        const int k = work.k;
        double *L = reinterpret_cast<double*>(work.arrays.T), *u = reinterpret_cast<double*>(work.arrays.q);
        double decrement2 = 0;
        for (int i = 0; i < k; ++i) {
            u[i] = 1.0;
            for (int j = 0; j < k; ++j) u[i] -= x[i] * C[i * ld + j] * x[j];
        }
        for (int i = 0; i < k; ++i) {
            for (int j = 0; j <= i; ++j) {
                double sum = x[i] * C[i * ld + j] * x[j] + (i == j);
                for (int p = 0; p < j; ++p) sum -= L[i * ld + p] * L[j * ld + p];
                L[i * ld + j] = i == j ? std::sqrt(sum) : sum / L[j * ld + j];
            }
            for (int p = 0; p < i; ++p) u[i] -= L[i * ld + p] * u[p];
            u[i] /= L[i * ld + i];
            decrement2 += u[i] * u[i];
        }
        for (int i = k - 1; i >= 0; --i) {
            for (int p = i + 1; p < k; ++p) u[i] -= L[p * ld + i] * u[p];
            u[i] /= L[i * ld + i];
            step[i] = x[i] * u[i];
        }
        return std::sqrt(decrement2);
    }
};

template <class T>
long run(const T* gram, double* out, std::int32_t* status, long batch, int k, int threads) {
    long failed = -1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        NashProblem problem(k);
#pragma omp for schedule(dynamic, 16)
        for (long i = 0; i < batch; ++i) {
            status[i] = problem.solve(gram + i * k * k, out + i * k);
            if (status[i] > nash_none) {
#pragma omp critical
                if (failed < 0 || i < failed / 8) failed = i * 8 + status[i];
            }
        }
    }
    return failed;
}

}  // namespace

long nash_mtl(const void* gram, bool is_float, double* out, std::int32_t* status, long batch, int k, int threads) {
    if (is_float) return run(static_cast<const float*>(gram), out, status, batch, k, threads);
    return run(static_cast<const double*>(gram), out, status, batch, k, threads);
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <pybind11/pybind11.h>

PCL_EVERY_ISA(long nash_mtl(const void* gram, bool is_float, double* out, std::int32_t* status, long batch, int k,
                            int threads);)

namespace pcl {

void register_nash_mtl(pybind11::module_& m) {
    using Address = std::uintptr_t;
    m.def("nash_mtl", [](Address gram, bool is_float, Address out, Address status, long batch, int k, int threads) {
        pybind11::gil_scoped_release release;
        return PCL_BEST(nash_mtl)(reinterpret_cast<const void*>(gram), is_float, reinterpret_cast<double*>(out),
                                  reinterpret_cast<std::int32_t*>(status), batch, k, threads);
    });
}

}  // namespace pcl
#endif
