// min 1/2 vᵀGv + vᵀb over v >= 0, for a batch of Gramians: the core of qp_core.hpp without an equality.
#include "isa.hpp"
#include "qp_solve.hpp"

namespace pcl::PCL_ISA {
namespace {

struct ConeProblem {
    Workspace work;
    std::unique_ptr<int[]> e;
    std::unique_ptr<double[]> d;

    explicit ConeProblem(int k) : work(k), e(new int[k]), d(new double[k]) {}

    template <class T>
    Status solve(const T* G, const double* b, double* out, const QpInfo& info, long n) {
        const int k = work.k;
        const Arrays& a = work.arrays;
        double *C = reinterpret_cast<double*>(a.C), *q = reinterpret_cast<double*>(a.q);
        double* x = reinterpret_cast<double*>(a.step);
        const long ld = long(work.nv) * W;
        const double eps = std::numeric_limits<T>::epsilon();

        if (!scale_gramian(G, k, a, work.nv, e.get(), d.get())) return Status::not_finite;
        for (int i = 0; i < k; ++i) {
            if (!(b[i] - b[i] == 0)) return Status::not_finite;
            if (C[i * ld + i] < 0) return Status::negative_diagonal;
        }
        // Scale -Db to about one. Where g_i is zero, v_i costs nothing: b_i decides between 0 and infinity.
        constexpr int none = std::numeric_limits<int>::min();
        int E = none;
        for (int i = 0; i < k; ++i) {
            out[i] = 0.0;
            if (C[i * ld + i] == 0) {
                if (b[i] < 0) return Status::unbounded;
            } else if (b[i] != 0) {
                const int ei = exponent(std::fabs(b[i])) + e[i];
                E = ei > E ? ei : E;
            }
        }
        if (E == none) {
            info.write(n, k, out, 0.0, 0, Status::solved);
            return Status::solved;
        }
        for (int i = 0; i < k; ++i) {
            q[i] = C[i * ld + i] == 0 ? -1.0 : -b[i] * pow2(e[i] - E);
            if (C[i * ld + i] == 0) C[i * ld + i] = 1.0, d[i] = 0.0;  // and q = -1: a variable that stays where it is
        }
        for (long i = k; i < ld; ++i) q[i] = 0.0;

        Outcome done = minimise(a, k, work.nv, {false, eps});
        if (!done.solved && sizeof(T) == sizeof(double))
            done.solved = solve_exactly(k, C, ld, q, false, x, done.pivots);
        // Rounding makes the G of dependent gradients indefinite and puts b a little off its range: then x may be as
        // long as it likes, or no minimiser at all. A ridge above the rounding bounds the problem, and is better unless
        // G is truly near singular. Where even then x is long, b is far off: the objective falls without end.
        const double off = error(C, ld, q, x, eps);
        if (!(off < 4096 * k * eps)) {
            const double ridge = 64 * k * eps;
            std::copy(x, x + k, out);
            for (int i = 0; i < k; ++i) C[i * ld + i] += ridge;
            const Outcome bounded = minimise(a, k, work.nv, {false, eps});
            for (int i = 0; i < k; ++i) C[i * ld + i] -= ridge;
            double length = 0;
            for (int i = 0; i < k; ++i) length += x[i];
            if (error(C, ld, q, x, eps) < off || off != off)
                done = bounded;
            else
                std::copy(out, out + k, x);
            if (!(error(C, ld, q, x, eps) < std::sqrt(eps))) {
                if (!(ridge * length < std::sqrt(eps))) return Status::unbounded;
                done.solved = false;
            }
        }
        for (int i = 0; i < k; ++i) out[i] = x[i] * pow2(e[i]) * pow2(E);
        const Status status = done.solved ? Status::solved : Status::inexact;
        if (info.gap) info.write(n, k, out, gap(C, ld, q, x) * pow2(E) * pow2(E), done.pivots, status);
        return status;
    }

  private:
    // How far x is from the optimality conditions w = Cx - q >= 0, and w = 0 where x > 0, rounding included; NaN where
    // x is not finite.
    double error(const double* C, long ld, const double* q, const double* x, double eps) const {
        double worst = 0, length = 0;
        for (int i = 0; i < work.k; ++i) {
            double w = -q[i];
            for (int j = 0; j < work.k; ++j) w += C[i * ld + j] * x[j];
            worst = std::fmax(worst, x[i] > 0 ? std::fabs(w) : -w);
            length += x[i];
        }
        return length - length == 0 ? std::fmax(worst, work.k * eps * length) : length - length;
    }

    // pcl_kernels.cone_qp has the formula; w = Cx - q here.
    double gap(const double* C, long ld, const double* q, const double* x) const {
        double slack = 0, violation = 0, longest = 0;
        for (int i = 0; i < work.k; ++i) {
            if (d[i] == 0) continue;
            const double norm = std::sqrt(C[i * ld + i]);
            double w = -q[i];
            for (int j = 0; j < work.k; ++j) w += C[i * ld + j] * x[j];
            slack += x[i] * std::fmax(w, 0.0);
            violation += std::fmax(-w, 0.0) / norm;
            longest = std::fmax(longest, std::fmax(x[i] * norm, std::fabs(q[i]) / norm));
        }
        return slack + 2 * longest * violation;
    }
};

template <class T>
long run(const T* gram, const double* b, long b_stride, double* out, const QpInfo& info, long batch, int k,
         int threads) {
    return for_each_problem<ConeProblem>(batch, k, threads, [&](ConeProblem& problem, long n) {
        return problem.solve(gram + n * k * k, b + n * b_stride, out + n * k, info, n);
    });
}

}  // namespace

long cone_qp(const void* gram, bool is_float, const double* b, long b_stride, double* out, const QpInfo& info,
             long batch, int k, int threads) {
    if (is_float) return run(static_cast<const float*>(gram), b, b_stride, out, info, batch, k, threads);
    return run(static_cast<const double*>(gram), b, b_stride, out, info, batch, k, threads);
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(long cone_qp(const void* gram, bool is_float, const double* b, long b_stride, double* out,
                           const QpInfo& info, long batch, int k, int threads);)

namespace pcl {

void register_cone_qp(nanobind::module_& m) {
    using Address = std::uintptr_t;
    m.def("cone_qp", [](Address gram, bool is_float, Address b, long b_stride, Address out, Address gap, Address active,
                        Address pivots, Address status, long batch, int k, int threads) {
        const QpInfo info{reinterpret_cast<double*>(gap), reinterpret_cast<bool*>(active),
                          reinterpret_cast<std::int32_t*>(pivots), reinterpret_cast<std::int32_t*>(status)};
        auto call = [&] {
            return PCL_BEST(cone_qp)(reinterpret_cast<const void*>(gram), is_float, reinterpret_cast<const double*>(b),
                                     b_stride, reinterpret_cast<double*>(out), info, batch, k, threads);
        };
        if (batch * k * k < 4096) return call();
        nanobind::gil_scoped_release release;
        return call();
    });
}

}  // namespace pcl
#endif
