// min λᵀGλ subject to Σ λ_iσ_i = 1, λ >= 0, for a batch of Gramians.
//
// With D the scaling of G and λ proportional to Dx, the equality goes into the objective: every minimiser of
// 1/2 xᵀ(DGD + ssᵀ)x - sᵀx over x >= 0, s = Dσ, is after division by sᵀx a minimiser here, and the reverse.
#include "isa.hpp"
#include "qp_solve.hpp"

namespace pcl::PCL_ISA {
namespace {

// ad - bc with one rounding (Kahan), so that two nearly parallel gradients lose nothing.
inline double difference_of_products(double a, double d, double b, double c) {
    const double bc = b * c;
    return std::fma(a, d, -bc) - std::fma(b, c, -bc);
}

struct Problem {
    Workspace work;
    std::unique_ptr<int[]> heap_e;
    std::unique_ptr<double[]> heap_d;
    int stack_e[64], *e;
    double stack_d[64], *d;

    explicit Problem(int k)
        : work(k), heap_e(k > 64 ? new int[k] : nullptr), heap_d(k > 64 ? new double[k] : nullptr),
          e(heap_e ? heap_e.get() : stack_e), d(heap_d ? heap_d.get() : stack_d) {}

    template <class T>
    Status solve(const T* G, const double* sigma, double* out, const QpInfo& info, long b) {
        const int k = work.k;
        const Arrays& a = work.arrays;
        double *C = reinterpret_cast<double*>(a.C), *s = reinterpret_cast<double*>(a.q);
        double* x = reinterpret_cast<double*>(a.step);
        const long ld = long(work.nv) * W;

        for (int i = 0; i < k; ++i) {
            const double si = sigma ? sigma[i] : 1.0;
            if (!(si >= std::numeric_limits<double>::min() && si < inf)) return Status::bad_sigma;
        }
        if (!scale_gramian(G, k, a, work.nv, e, d)) return Status::not_finite;
        int zeros = 0;
        for (int i = 0; i < k; ++i) {
            if (C[i * ld + i] < 0) return Status::negative_diagonal;
            zeros += C[i * ld + i] == 0;
        }
        if (zeros) {
            for (int i = 0; i < k; ++i) out[i] = C[i * ld + i] == 0 ? 1.0 / (zeros * (sigma ? sigma[i] : 1.0)) : 0.0;
            info.write(b, k, out, 0.0, 0, Status::solved);
            return Status::solved;
        }

        int E = e[0] + (sigma ? exponent(sigma[0]) : 0);
        for (int i = 1; i < k; ++i) {
            const int ei = e[i] + (sigma ? exponent(sigma[i]) : 0);
            E = ei > E ? ei : E;
        }
        for (int i = 0; i < k; ++i) s[i] = (sigma ? sigma[i] : 1.0) * pow2(e[i] - E);
        for (long i = k; i < ld; ++i) s[i] = 0.0;

        Outcome done{true, 0};
        if (k == 1) x[0] = 1.0;
        else if (k == 2) done.solved = two(C, ld, s, x, precision<T>());
        else done = minimise(a, k, work.nv, {true, precision<T>()});
        // A float32 Gramian has not the digits that a second look would bring out.
        if (!done.solved && k > 2 && sizeof(T) == sizeof(double))
            done.solved = simplex_exactly(k, C, ld, s, x, done.pivots);

        long double t_long = 0;  // the last digit of Σ λσ = 1 is at stake
        for (int i = 0; i < k; ++i) t_long += static_cast<long double>(x[i]) * s[i];
        const double t = double(t_long);
        for (int i = 0; i < k; ++i) out[i] = x[i] / t * pow2(e[i] - E);
        const auto status = done.solved ? Status::solved : Status::inexact;
        if (info.gap) info.write(b, k, out, gap(C, ld, s, x, t) * pow2(-E) * pow2(-E), done.pivots, status);
        return status;
    }

  private:
    template <class T>
    static double precision() {
        return std::numeric_limits<T>::epsilon();
    }

    // Eq. 20-23 of EMGD with general σ: inside, both multipliers vanish; else the better single task.
    // False where |cos| > 1 by more than rounding.
    static bool two(const double* C, long ld, const double* s, double* x, double eps) {
        const double x0 = difference_of_products(s[0], C[ld + 1], s[1], C[1]);
        const double x1 = difference_of_products(s[1], C[0], s[0], C[1]);
        const bool first = C[0] * s[1] * s[1] <= C[ld + 1] * s[0] * s[0];
        const bool inside = x0 > 0 && x1 > 0;
        x[0] = inside ? x0 : first;
        x[1] = inside ? x1 : !first;
        return C[1] * C[1] <= C[0] * C[ld + 1] * (1 + 8 * eps);
    }

    // 2(λᵀGλ - min_i (Gλ)_i/σ_i) of the scaled problem.
    double gap(const double* C, long ld, const double* s, const double* x, double t) const {
        double f = 0, least = inf;
        for (int i = 0; i < work.k; ++i) {
            double Cx = 0;
            for (int j = 0; j < work.k; ++j) Cx += C[i * ld + j] * x[j];
            f += x[i] * Cx;
            least = std::fmin(least, Cx / s[i]);
        }
        return std::fmax(0.0, 2 * (f / t - least) / t);
    }
};

template <class T>
long run(const T* gram, const double* sigma, long sigma_stride, double* out, const QpInfo& info, long batch, int k,
         int threads) {
    return for_each_problem<Problem>(batch, k, threads, [&](Problem& problem, long n) {
        return problem.solve(gram + n * k * k, sigma ? sigma + n * sigma_stride : nullptr, out + n * k, info, n);
    });
}

}  // namespace

long simplex_qp(const void* gram, bool is_float, const double* sigma, long sigma_stride, double* out,
                const QpInfo& info, long batch, int k, int threads) {
    if (is_float) return run(static_cast<const float*>(gram), sigma, sigma_stride, out, info, batch, k, threads);
    return run(static_cast<const double*>(gram), sigma, sigma_stride, out, info, batch, k, threads);
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(long simplex_qp(const void* gram, bool is_float, const double* sigma, long sigma_stride, double* out,
                              const QpInfo& info, long batch, int k, int threads);)

namespace pcl {

void register_simplex_qp(nanobind::module_& m) {
    using Address = std::uintptr_t;
    m.def(
        "simplex_qp",
        [](Address gram, bool is_float, Address sigma, long sigma_stride, Address out, Address gap, Address active,
           Address pivots, Address status, long batch, int k, int threads) {
            const QpInfo info{reinterpret_cast<double*>(gap), reinterpret_cast<bool*>(active),
                                   reinterpret_cast<std::int32_t*>(pivots), reinterpret_cast<std::int32_t*>(status)};
            auto call = [&] {
                return PCL_BEST(simplex_qp)(reinterpret_cast<const void*>(gram), is_float,
                                            reinterpret_cast<const double*>(sigma), sigma_stride,
                                            reinterpret_cast<double*>(out), info, batch, k, threads);
            };
            if (batch * k * k < 4096) return call();  // a few microseconds: letting others in costs more
            nanobind::gil_scoped_release release;
            return call();
        });
}

}  // namespace pcl
#endif
