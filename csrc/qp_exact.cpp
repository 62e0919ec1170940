#include "qp_exact.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "double_double.hpp"

namespace pcl {
namespace {

using Real = DoubleDouble;

constexpr double eps = std::numeric_limits<double>::epsilon();
constexpr double exact_ridge = 1e-20;  // far below the rounding of C, far above that of this arithmetic
constexpr double tolerance = 1e-19;  // of the objective, whose best single task is about 1
constexpr double zero = 1e-30;       // an objective that stands for 0

struct Solver {
    const int k;
    const double* C;
    const long stride;
    const double* q;
    const bool rank1;
    const double ridge, tolerance;
    int& pivots;
    std::vector<Real> T, v, rho, step;  // v: x on S, multipliers on N
    std::vector<char> free;

    Solver(int k, const double* C, long stride, const double* q, bool rank1, double ridge, double tolerance, int& pivots)
        : k(k), C(C), stride(stride), q(q), rank1(rank1), ridge(ridge), tolerance(tolerance), pivots(pivots), T(size_t(k) * k), v(k), rho(k), step(k),
          free(k, 0) {
        for (int i = 0; i < k; ++i) {
            for (int j = 0; j < k; ++j) at(i, j) = Real(C[i * stride + j]) + (rank1 ? two_product(q[i], q[j]) : Real());
            at(i, i) = at(i, i) + Real(ridge);
            v[i] = -q[i];
        }
    }

    Real& at(int i, int j) { return T[size_t(i) * k + j]; }

    void sweep(int p) {
        ++pivots;
        const bool joins = !free[p];
        const Real d = at(p, p);
        std::vector<Real> f(k);
        for (int i = 0; i < k; ++i) f[i] = at(i, p) / d;
        for (int i = 0; i < k; ++i)
            if (i != p)
                for (int j = 0; j < k; ++j)
                    if (j != p) at(i, j) = at(i, j) - f[i] * at(p, j);
        for (int i = 0; i < k; ++i) at(i, p) = at(p, i) = joins ? f[i] : -f[i];
        at(p, p) = Real(-1.0) / d;
        free[p] = joins;
    }

    // A multiplier below zero matters by what entering would gain, w²/2T_ii.
    int entering() {
        int r = -1;
        for (int i = 0; i < k; ++i) {
            if (free[i] || v[i].hi >= 0) continue;
            const double d = std::fmax(at(i, i).hi, ridge);
            if (v[i].hi * v[i].hi > tolerance * d && (r < 0 || v[i] < v[r])) r = i;
        }
        return r;
    }

    bool pivot() {
        for (const int limit = pivots + 20 * k + 50; pivots < limit;) {
            const int r = entering();
            if (r < 0) return true;
            Real xr;
            for (bool inside = false; !inside && pivots < limit;) {
                int leaving = -1;
                Real theta;
                for (int i = 0; i < k; ++i)
                    if (free[i] && at(i, r).hi > 0) {
                        const Real ratio = v[i] / at(i, r);
                        if (leaving < 0 || ratio < theta) theta = ratio, leaving = i;
                    }
                if (at(r, r).hi < 0.25 * ridge && leaving < 0) at(r, r) = ridge;
                if (at(r, r).hi >= 0.25 * ridge) {
                    const Real full = -v[r] / at(r, r);
                    inside = leaving < 0 || !(theta < full);
                    if (inside) theta = full;
                }
                if (!inside && leaving < 0) return false;  // NaN: A is not positive definite on S
                for (int i = 0; i < k; ++i) v[i] = free[i] ? v[i] - theta * at(i, r) : v[i] + theta * at(i, r);
                xr = xr + theta;
                if (inside) v[r] = xr;
                else v[leaving] = 0.0;
                sweep(inside ? r : leaving);
            }
        }
        return false;
    }

    // What the objective can still fall on S (times two); fills rho and step.
    double residual() {
        Real t;
        if (rank1)
            for (int j = 0; j < k; ++j)
                if (free[j]) t = t + v[j] * Real(q[j]);
        for (int i = 0; i < k; ++i) {
            rho[i] = Real(q[i]) * (Real(1.0) - t);
            for (int j = 0; j < k; ++j)
                if (free[j]) rho[i] = rho[i] - v[j] * Real(C[i * stride + j]);
        }
        Real fall;
        for (int i = 0; i < k; ++i) {
            step[i] = 0.0;
            if (!free[i]) continue;
            for (int j = 0; j < k; ++j)
                if (free[j]) step[i] = step[i] - at(i, j) * rho[j];
            fall = fall + step[i] * rho[i];
        }
        return fall.hi;
    }

    // False where S has a direction in which the objective falls for ever, as an indefinite C has.
    bool solve() {
        for (int round = 0; round < 20; ++round) {
            if (!pivot()) return false;
            bool again = true;
            for (int n = 0; n < 200 && again; ++n) {
                const double fall = residual();
                if (fall < -1e-9) return false;
                again = fall > tolerance;
                bool dropped = false;
                for (int i = 0; i < k && again; ++i)
                    if (free[i]) v[i] = v[i] + step[i];
                for (int i = 0; i < k; ++i)
                    if (free[i] && v[i].hi < 0) sweep(i), v[i] = 0.0, dropped = true;
                again = again || dropped;
            }
            if (again) return false;
            for (int i = 0; i < k; ++i)
                if (!free[i]) v[i] = -rho[i];
            if (entering() < 0) return true;
        }
        return false;
    }

    bool solve_into(double* x) {
        const bool solved = solve();
        for (int i = 0; i < k; ++i) x[i] = free[i] ? std::fmax(v[i].hi, 0.0) : 0.0;
        return solved;
    }
};

}  // namespace

bool solve_exactly(int k, const double* C, long stride, const double* q, bool rank1, double* x, int& pivots) {
    return Solver(k, C, stride, q, rank1, exact_ridge, tolerance, pivots).solve_into(x);
}

namespace {

// Feasible points of min xᵀCx / (sᵀx)², the best of which stays in x.
struct Candidates {
    const int k;
    const double* C;
    const long stride;
    const double* s;
    double* x;
    double noise = 0;  // of C; an objective is not known better than noise·(Σx_i/sᵀx)²
    Real best = std::numeric_limits<double>::infinity();

    // True where `other` is as good as any before it.
    bool offer(const std::vector<double>& other) {
        Real f, t, length;
        for (int i = 0; i < k; ++i) {
            if (other[i] == 0) continue;
            Real Cx;
            for (int j = 0; j < k; ++j) Cx = Cx + two_product(C[i * stride + j], other[j]);
            f = f + Cx * Real(other[i]);
            t = t + two_product(s[i], other[i]);
            length = length + Real(other[i]);
        }
        f = (f + Real(noise) * length * length) / (t * t);
        const bool as_good = f.hi <= best.hi + 1e-15;  // false where it is NaN
        if (f < best) {
            best = f;
            std::copy(other.begin(), other.end(), x);
        }
        return as_good;
    }

    void offer_best_single() {
        std::vector<double> one(k);
        int single = 0;
        for (int i = 1; i < k; ++i)
            if (s[i] * s[i] * C[single * stride + single] > s[single] * s[single] * C[i * stride + i]) single = i;
        one[single] = 1.0;
        offer(one);
    }

    // The optimality conditions, or an objective of zero, up to the rounding of C.
    bool optimal() const {
        std::vector<double> Cx(k);
        double f = 0, t = 0, length = 0;
        for (int i = 0; i < k; ++i) {
            for (int j = 0; j < k; ++j) Cx[i] += C[i * stride + j] * x[j];
            f += x[i] * Cx[i], t += s[i] * x[i], length += x[i];
        }
        const double rounding = 64 * eps * length * length;
        if (f <= rounding) return f >= -rounding;  // below that, C is not positive semidefinite
        for (int i = 0; i < k; ++i) {
            const double w = Cx[i] - f / t * s[i], allowed = 256 * eps * std::fmax(t, length);
            if (w < -allowed || (x[i] > 0 && w > allowed)) return false;
        }
        return true;
    }
};

}  // namespace

bool simplex_exactly(int k, const double* C, long stride, const double* s, double* x, int& pivots) {
    std::vector<double> incoming(x, x + k), other(k);
    Candidates exact{k, C, stride, s, x};
    exact.offer_best_single();
    exact.offer(incoming);
    bool solved = solve_exactly(k, C, stride, s, true, other.data(), pivots);
    solved = exact.offer(other) && solved;
    const auto is_zero = [&] { return exact.best.hi >= 0 && exact.best.hi <= tolerance; };
    if (is_zero()) return true;

    // Where the gradients cancel, they do so whatever s is; with s of very different sizes only s = 1 can see it.
    // What is left of the others by rounding would weigh in with its s, so it goes.
    const std::vector<double> ones(k, 1.0);
    std::vector<double> cancelling(k);
    Solver(k, C, stride, ones.data(), true, exact_ridge, zero, pivots).solve_into(cancelling.data());
    const double least = 1e-12 * *std::max_element(cancelling.begin(), cancelling.end());
    for (double& v : cancelling) v = v < least ? 0.0 : v;
    exact.offer(cancelling);
    if ((solved && exact.best.hi > 0) || is_zero()) return true;

    // C is not positive semidefinite, often only by its own rounding. Then a long x that cancels nearly is worth
    // no more than rounding makes of it, and a ridge of that size finds a better one.
    Candidates rounded{k, C, stride, s, x, 4 * eps};
    for (const auto& candidate : {incoming, other, cancelling}) rounded.offer(candidate);
    rounded.offer_best_single();
    for (double ridge = 4 * eps; ridge < 1e-12; ridge *= 16) {
        Solver(k, C, stride, s, true, ridge, ridge, pivots).solve_into(other.data());
        rounded.offer(other);
    }
    return rounded.optimal();
}

}  // namespace pcl
