// min_w wᵀb + c‖g₀‖√(wᵀGw) over w >= 0, Σw = 1, with g₀ = Σ p_i g_i, the mean gradient if none is preferred, and
// b_i = g_i·g₀.
//
// With r = c‖g₀‖ and ν the minimum, the optimality conditions say that z = w·r/√(wᵀGw) solves the cone problem
// min 1/2 zᵀGz + zᵀ(b - ν) over z >= 0 and has zᵀGz = r². That quantity grows with ν, and on one active set
// it is a quadratic: (zᵀGz)(ν + δ) = zᵀGz + 2δ Σz + δ² Σy with G_SS y = 1. So ν is found by solving the cone problem,
// going to the root of its quadratic, and repeating until the active set stays; bisection guards the way.
#include "isa.hpp"
#include "qp_solve.hpp"

namespace pcl::PCL_ISA {
namespace {

struct CagradProblem {
    Workspace work;
    std::unique_ptr<int[]> e;
    std::unique_ptr<double[]> d, b, one, y;
    std::unique_ptr<std::int64_t[]> before;

    explicit CagradProblem(int k)
        : work(k), e(new int[k]), d(new double[k]), b(new double[k]), one(new double[k]), y(new double[k]),
          before(new std::int64_t[k]) {}

    template <class T>
    Status solve(const T* G, double c, const double* p, double* out, const QpInfo& info, long n) {
        const int k = work.k;
        for (int i = 0; i < k; ++i)
            if (p && !(p[i] >= std::numeric_limits<double>::min() && p[i] < inf)) return Status::bad_sigma;
        const Arrays& a = work.arrays;
        double* C = reinterpret_cast<double*>(a.C);
        double* q = reinterpret_cast<double*>(a.q);
        double* x = reinterpret_cast<double*>(a.step);
        const long ld = long(work.nv) * W;
        const double eps = std::numeric_limits<T>::epsilon();
        if (!scale_gramian(G, k, a, work.nv, e.get(), d.get())) return Status::not_finite;

        // One common power of two makes the longest gradient about 1. Variables are z_i/d_i, as in qp_core.hpp.
        int E = e[0];
        bool any = false;
        for (int i = 0; i < k; ++i) {
            if (C[i * ld + i] < 0) return Status::negative_diagonal;
            if (C[i * ld + i] > 0) E = any && e[i] > E ? E : e[i], any = true;
        }
        for (int i = 0; i < k; ++i) out[i] = 1.0 / k;
        if (!any) return answer(Status::solved, out, 0.0, 0, info, n);
        double r2 = 0;
        for (int i = 0; i < k; ++i) {
            const bool zero = C[i * ld + i] == 0;
            one[i] = zero ? 1.0 : pow2(e[i] - E);  // 1 in the units of x; at least 1
            b[i] = 0;
            for (int j = 0; j < k; ++j)
                b[i] += C[i * ld + j] / (C[j * ld + j] > 0 ? pow2(e[j] - E) : 1.0) * (p ? p[j] : 1.0 / k);
            r2 += b[i] / one[i] * (p ? p[i] : 1.0 / k);
        }
        const double r = c * std::sqrt(r2 > 0 ? r2 : 0.0);

        // From here in units where G is the unit of b: b_i = (C u)_i is d_i times the scaled b.
        double low = inf, high = inf;
        int single = 0;
        for (int i = 0; i < k; ++i) {
            low = std::fmin(low, b[i] / one[i]);
            const double value = (b[i] + r * std::sqrt(C[i * ld + i])) / one[i];
            if (value < high) high = value, single = i;
        }
        if (r == 0) {  // linear: all weight on the lowest b, the first of equals
            int best = 0;
            for (int i = 1; i < k; ++i)
                if (b[i] / one[i] < b[best] / one[best]) best = i;
            for (int i = 0; i < k; ++i) out[i] = i == best;
            return answer(Status::solved, out, 0.0, 0, info, n);
        }
        const double size = std::fmax(std::fabs(low), std::fabs(high));
        int pivots = 0;
        double least = least_norm(C, ld, eps, r, out, pivots);
        if (high < least) {  // the best single task
            for (int i = 0; i < k; ++i) out[i] = i == single;
            least = high;
        }
        high = least;
        double nu = high;
        bool solved = false, exact = true;
        for (int i = 0; i < k; ++i) before[i] = 2;
        for (int round = 0; round < 100 && !solved; ++round) {
            double scale = 0;
            for (int i = 0; i < k; ++i) {
                q[i] = nu * one[i] - b[i];
                scale = std::fmax(scale, std::fabs(q[i]));
            }
            for (int i = 0; i < k; ++i) q[i] /= scale;
            for (long i = k; i < ld; ++i) q[i] = 0.0;
            const Outcome done = minimise(a, k, work.nv, {false, eps});
            exact = done.solved;
            pivots += done.pivots;
            std::int64_t* free = reinterpret_cast<std::int64_t*>(a.free);
            double sum_z = 0, quad = 0, zb = 0, length = 0;
            for (int i = 0; i < k; ++i) x[i] *= scale;
            for (int i = 0; i < k; ++i) {
                sum_z += x[i] * one[i];
                length += x[i];
                double Cx = 0;
                for (int j = 0; j < k; ++j) Cx += C[i * ld + j] * x[j];
                quad += x[i] * Cx;
                zb += x[i] * b[i];
            }
            bool same = sum_z > 0;
            for (int i = 0; i < k; ++i) {
                same = same && before[i] == free[i];
                before[i] = free[i];
            }
            const double sum_y = direction(C, ld);
            // the root of quad + 2δ Σz + δ² Σy = r², in the form without cancellation
            const double missing = r * r - quad;
            (missing > 0 ? low : high) = nu;
            const double root = std::sqrt(std::fmax(0.0, sum_z * sum_z + sum_y * missing));
            double next = nu + missing / (sum_z + root);
            if (!(next > low && next < high)) next = same ? std::fmin(std::fmax(next, low), high) : 0.5 * (low + high);
            const double moved = std::fabs(next - nu);
            solved = same && (moved <= 8 * eps * std::fabs(nu) || std::fabs(missing) <= 16 * eps * r * r);
            solved = solved || high - low <= 4 * eps * size;
            const double value = (zb + r * std::sqrt(std::fmax(0.0, quad))) / sum_z;
            // The last round is the best one, though its value may lie above an earlier one by rounding; where the
            // combination vanishes, rounding decides where it points, and only the value counts.
            const bool last = solved && exact && quad > 64 * eps * length * length;
            if (sum_z > 0 && value <= least + (last ? 0x1p-49 * size : 0.0)) {
                least = std::fmin(least, value);
                for (int i = 0; i < k; ++i) out[i] = x[i] * one[i] / sum_z;
            }
            nu = next;
        }
        const double gap = info.gap ? duality_gap(C, ld, eps, r, out) * pow2(-E) * pow2(-E) : 0.0;
        return answer(solved && exact ? Status::solved : Status::inexact, out, gap, pivots, info, n);
    }

  private:
    Status answer(Status status, const double* out, double gap, int pivots, const QpInfo& info, long n) const {
        info.write(n, work.k, out, gap, pivots, status);
        return status;
    }

    // How far F(w) = wᵀb + r√(wᵀGw) lies above a bound: every y with yᵀGy <= 1 gives one, min_i (b + rGy)_i. Two are
    // tried, w itself and the last solution z of the cone problem, which serves also where w cancels.
    double duality_gap(const double* C, long ld, double eps, double r, const double* out) const {
        const int k = work.k;
        const double* z = reinterpret_cast<const double*>(work.arrays.step);
        double ww = 0, wb = 0, zz = 0, length = 0;
        const auto row = [&](int i, auto x) {
            double sum = 0;
            for (int j = 0; j < k; ++j) sum += C[i * ld + j] * x(j);
            return sum;
        };
        const auto w = [&](int i) { return out[i] / one[i]; };
        const auto last = [&](int i) { return z[i]; };
        for (int i = 0; i < k; ++i) {
            ww += w(i) * row(i, w);
            zz += z[i] * row(i, last);
            wb += w(i) * b[i];
            length += w(i);
        }
        const bool vanishes = ww <= 64 * eps * length * length;
        const double norm = vanishes ? 0.0 : std::sqrt(ww), shrink = r / std::fmax(r, std::sqrt(std::fmax(0.0, zz)));
        double bound = inf, other = inf;
        for (int i = 0; i < k; ++i) {
            bound = std::fmin(bound, (b[i] + (vanishes ? 0.0 : r / norm * row(i, w))) / one[i]);
            other = std::fmin(other, (b[i] + shrink * row(i, last)) / one[i]);
        }
        return std::fmax(0.0, wb + r * norm - std::fmax(bound, other));
    }

    // The combination of least norm into `out`, and its value. Where it vanishes up to rounding, the cone problem
    // is unbounded for ν > 0, so that 0 bounds ν from above.
    double least_norm(const double* C, long ld, double eps, double r, double* out, int& pivots) {
        const int k = work.k;
        double *s = reinterpret_cast<double*>(work.arrays.q), *x = reinterpret_cast<double*>(work.arrays.step);
        double largest = 0, total = 0, quad = 0, xb = 0, length = 0;
        int zero = -1;
        for (int i = k - 1; i >= 0; --i) {
            largest = std::fmax(largest, one[i]);
            if (C[i * ld + i] == 0) zero = i;
        }
        for (int i = 0; i < k; ++i) s[i] = one[i] / largest;
        for (long i = k; i < ld; ++i) s[i] = 0.0;
        if (zero < 0) {
            const Outcome done = minimise(work.arrays, k, work.nv, {true, eps});
            pivots += done.pivots;  // a float32 Gramian has not the digits that a second look would bring out
            if (!done.solved && eps == std::numeric_limits<double>::epsilon()) simplex_exactly(k, C, ld, s, x, pivots);
        } else {
            for (int i = 0; i < k; ++i) x[i] = i == zero;
        }
        for (int i = 0; i < k; ++i) {
            double Cx = 0;
            for (int j = 0; j < k; ++j) Cx += C[i * ld + j] * x[j];
            quad += x[i] * Cx;
            xb += x[i] * b[i];
            total += x[i] * one[i];
            length += x[i];
        }
        for (int i = 0; i < k; ++i) out[i] = x[i] * one[i] / total;
        if (quad <= 64 * eps * length * length) return 0.0;
        return (xb + r * std::sqrt(quad)) / total;
    }

    // y with C_SS y = 1 on S, once refined; returns Σ y. Uses the tableau that the solver has left.
    double direction(const double* C, long ld) {
        const int k = work.k;
        const Arrays& a = work.arrays;
        const double* Tab = reinterpret_cast<const double*>(a.T);
        const std::int64_t* free = reinterpret_cast<const std::int64_t*>(a.free);
        for (int i = 0; i < k; ++i) y[i] = 0;
        for (int pass = 0; pass < 2; ++pass) {
            double* rho = reinterpret_cast<double*>(a.rho);
            for (int i = 0; i < k; ++i) {
                rho[i] = free[i] ? one[i] : 0.0;
                for (int j = 0; j < k && free[i]; ++j) rho[i] -= C[i * ld + j] * y[j];
            }
            for (int i = 0; i < k; ++i)
                for (int j = 0; j < k && free[i]; ++j)
                    if (free[j]) y[i] -= Tab[i * ld + j] * rho[j];
        }
        double total = 0;
        for (int i = 0; i < k; ++i) total += y[i] * one[i];
        return total;
    }
};

template <class T>
long run(const T* gram, double c, const double* preference, long preference_stride, double* out, const QpInfo& info,
         long batch, int k, int threads) {
    return for_each_problem<CagradProblem>(batch, k, threads, [&](CagradProblem& problem, long n) {
        const double* p = preference ? preference + n * preference_stride : nullptr;
        return problem.solve(gram + n * k * k, c, p, out + n * k, info, n);
    });
}

}  // namespace

long cagrad_dual(const void* gram, bool is_float, double c, const double* preference, long preference_stride,
                 double* out, const QpInfo& info, long batch, int k, int threads) {
    const auto solve = [&](auto* G) {
        return run(G, c, preference, preference_stride, out, info, batch, k, threads);
    };
    return is_float ? solve(static_cast<const float*>(gram)) : solve(static_cast<const double*>(gram));
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(long cagrad_dual(const void* gram, bool is_float, double c, const double* preference,
                               long preference_stride, double* out, const QpInfo& info, long batch, int k,
                               int threads);)

namespace pcl {

void register_cagrad_dual(nanobind::module_& m) {
    using Address = std::uintptr_t;
    m.def("cagrad_dual", [](Address gram, bool is_float, double c, Address preference, long preference_stride,
                            Address out, Address gap, Address active, Address pivots, Address status, long batch,
                            int k, int threads) {
        const QpInfo info{reinterpret_cast<double*>(gap), reinterpret_cast<bool*>(active),
                          reinterpret_cast<std::int32_t*>(pivots), reinterpret_cast<std::int32_t*>(status)};
        nanobind::gil_scoped_release release;
        return PCL_BEST(cagrad_dual)(reinterpret_cast<const void*>(gram), is_float, c,
                                     reinterpret_cast<const double*>(preference), preference_stride,
                                     reinterpret_cast<double*>(out), info, batch, k, threads);
    });
}

}  // namespace pcl
#endif
