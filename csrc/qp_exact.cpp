#include "qp_exact.hpp"

#include <limits>
#include <vector>

#include "double_double.hpp"

namespace pcl {
namespace {

using Real = DoubleDouble;

constexpr double eps = std::numeric_limits<double>::epsilon();
constexpr double ridge = eps / 2;
constexpr double tolerance = 1e-19;  // of the objective; the best single task is about 1

struct Solver {
    const int k;
    const double* C;
    const long stride;
    const double* q;
    const bool rank1;
    int& pivots;
    std::vector<Real> T, v, rho, step;  // v: x on S, multipliers on N
    std::vector<char> free;

    Solver(int k, const double* C, long stride, const double* q, bool rank1, int& pivots)
        : k(k), C(C), stride(stride), q(q), rank1(rank1), pivots(pivots), T(size_t(k) * k), v(k), rho(k), step(k),
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

    bool solve() {
        for (int round = 0; round < 20; ++round) {
            if (!pivot()) return false;
            bool again = true;
            for (int n = 0; n < 200 && again; ++n) {
                const double fall = residual();
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
};

}  // namespace

bool solve_exactly(int k, const double* C, long stride, const double* q, bool rank1, double* x, int& pivots) {
    Solver solver(k, C, stride, q, rank1, pivots);
    const bool solved = solver.solve();
    for (int i = 0; i < k; ++i) x[i] = solver.free[i] ? std::fmax(solver.v[i].hi, 0.0) : 0.0;
    return solved;
}

}  // namespace pcl
