// The one solver behind the small quadratic programs: min 1/2 xᵀAx - qᵀx over x >= 0, where A = C or C + qqᵀ.
//
// C is a Gramian scaled to about unit diagonal by powers of two, so the scaling rounds nothing. A primal active
// set method runs on the symmetric tableau T of A + ridge·I: with S the set of free variables and N the rest,
//
//     T_SS = -A_SS⁻¹,   T_SN = A_SS⁻¹A_SN,   T_NN = A_NN - A_NS A_SS⁻¹ A_SN,
//
// so that one variable enters or leaves S by one rank-1 update (`sweep`). The variable with the most negative
// multiplier enters (ties: the lowest index); the first to reach zero on the way leaves. Rounding collects in
// T, therefore the answer never rests on it: residuals are taken from C itself, T only turns them into
// corrections, and these run until the objective provably is within `tolerance` of the best one on S.
// Corrections leave the ridge out, which makes them steps of the proximal point method: the ridge keeps singular
// problems (duplicate, opposite, dependent gradients) solvable and does not shift the answer.
//
// `solve` says false where double precision cannot vouch for the answer; qp_exact.hpp then solves it again in
// twice the precision.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace pcl::PCL_ISA {

#if defined(__AVX512F__)
constexpr int W = 8;
#elif defined(__AVX__)
constexpr int W = 4;
#else
constexpr int W = 2;
#endif
typedef double V __attribute__((vector_size(W * 8)));
typedef std::int64_t M __attribute__((vector_size(W * 8)));  // lane masks: 0 or -1; and lane numbers

inline V splat(double a) { return V{} + a; }
inline M splat(std::int64_t a) { return M{} + a; }

inline M lane_numbers() {
    M m;
    for (int i = 0; i < W; ++i) m[i] = i;
    return m;
}

inline double sum(V a) {
    double s = 0;
    for (int i = 0; i < W; ++i) s += a[i];
    return s;
}

// Bit i is lane i of a mask.
inline unsigned bits(M mask) {
#if defined(__AVX512DQ__)
    return _mm512_movepi64_mask(__m512i(mask));
#elif defined(__AVX__)
    return unsigned(_mm256_movemask_pd(__m256d(mask)));
#else
    unsigned b = 0;
    for (int i = 0; i < W; ++i) b |= unsigned(mask[i] & 1) << i;
    return b;
#endif
}

inline double lowest(V a) {
    typedef double Half __attribute__((vector_size(W * 4)));
    double low;
    if (W > 2) {
        Half lower, upper;
        std::memcpy(&lower, &a, sizeof(Half));
        std::memcpy(&upper, reinterpret_cast<const char*>(&a) + sizeof(Half), sizeof(Half));
        lower = upper < lower ? upper : lower;
        low = lower[0];
        for (int i = 1; i < W / 2; ++i) low = lower[i] < low ? lower[i] : low;
    } else {
        low = a[1] < a[0] ? a[1] : a[0];
    }
    return low;
}

constexpr double inf = std::numeric_limits<double>::infinity();

// Memory of one problem. Rows are padded to whole vectors; the padding of C, T and q is zero.
struct Arrays {
    V *T, *C, *q, *v, *rho, *step, *sign;
    M *free, *bound;  // masks of S and N; padding is in neither

    static size_t vectors(int k, int nv) { return 2 * size_t(k) * nv + 7 * size_t(nv); }

    Arrays(V* memory, int k, int nv) {
        T = memory;
        C = T + size_t(k) * nv;
        q = C + size_t(k) * nv;
        v = q + nv, rho = v + nv, step = rho + nv, sign = step + nv;
        free = reinterpret_cast<M*>(sign + nv), bound = free + nv;
    }
};

struct Settings {
    bool rank1;        // A = C + qqᵀ instead of A = C
    double eps;        // relative precision of the entries of C
};

// NV is the number of vectors in a row, 0 where it is only known at run time.
template <int NV>
struct Core {
    const Arrays& a;
    const Settings& set;
    const int k, nv_;
    double ridge, tol_w, t = 0, norm1 = 0, trace = 0;
    int sweeps = 0;

    int nv() const { return NV ? NV : nv_; }
    V* row(V* matrix, int i) const { return matrix + size_t(i) * nv(); }
    static double& at(V* vec, int i) { return reinterpret_cast<double*>(vec)[i]; }
    static std::int64_t& at(M* vec, int i) { return reinterpret_cast<std::int64_t*>(vec)[i]; }

    Core(const Arrays& arrays, const Settings& settings, int k, int nv)
        : a(arrays), set(settings), k(k), nv_(nv), ridge(4 * settings.eps), tol_w(2 * settings.eps) {}

    void start() {
        for (int i = 0; i < k; ++i) {
            V *T = row(a.T, i), *C = row(a.C, i);
            const double qi = set.rank1 ? at(a.q, i) : 0.0;
            for (int j = 0; j < nv(); ++j) T[j] = C[j] + qi * a.q[j];
            at(T, i) += ridge;
        }
        const M number = lane_numbers();
        for (int j = 0; j < nv(); ++j) {
            a.v[j] = -a.q[j];
            a.sign[j] = splat(1.0);
            a.free[j] = M{};
            a.bound[j] = number + j * W < k;
        }
    }

    // Variable p joins S (or leaves it): one principal pivot, O(k²).
    void sweep(int p, bool joins) {
        ++sweeps;
        V local[NV ? NV : 1];
        M local_keep[NV ? NV : 1];
        V* c = NV ? local : a.step;
        M* keep = NV ? local_keep : reinterpret_cast<M*>(a.rho);
        V* Tp = row(a.T, p);
        const double inv = 1.0 / at(Tp, p);
        const M number = lane_numbers();
        const V unit = splat(joins ? -1.0 : 1.0);
        for (int j = 0; j < nv(); ++j) {
            keep[j] = number + j * W != p;
            c[j] = keep[j] ? Tp[j] : unit;
        }
        const double* f = reinterpret_cast<const double*>(Tp);
        auto rows = [&](int from, int to) {
            for (int i = from; i < to; ++i) {
                V* Ti = row(a.T, i);
                const double fi = f[i] * inv;
                for (int j = 0; j < nv(); ++j) Ti[j] = (V)((M)Ti[j] & keep[j]) - fi * c[j];
            }
        };
        rows(0, p);
        rows(p + 1, k);
        for (int j = 0; j < nv(); ++j) Tp[j] = (joins ? inv : -inv) * c[j];
        at(a.free, p) = joins ? -1 : 0;
        at(a.bound, p) = joins ? 0 : -1;
        at(a.sign, p) = joins ? -1.0 : 1.0;
    }

    // The lowest index of the smallest value among the lanes of `score`; -1 where all are infinite.
    template <class Score>
    int argmin(Score score, double& smallest) const {
        V best = splat(inf);
        for (int j = 0; j < nv(); ++j) {
            const V s = score(j);
            best = s < best ? s : best;
        }
        smallest = lowest(best);
        if (smallest == inf) return -1;
        if (NV * W <= 64) {  // all lanes at once: the branch of a search would be guessed wrong
            std::uint64_t found = 0;
            for (int j = 0; j < NV; ++j) found |= std::uint64_t(bits(score(j) == smallest)) << (j * W);
            if (NV) return __builtin_ctzll(found);
        }
        for (int j = 0;; ++j)
            if (const unsigned found = bits(score(j) == smallest)) return j * W + __builtin_ctz(found);
    }

    // The variable of S that reaches zero first when r grows, and how far r may grow until then.
    int first_to_leave(int r, double& way) const {
        const V* Tr = row(a.T, r);
        return argmin(
            [&](int j) {
                const M blocks = a.free[j] & (Tr[j] > 0.0);
                return blocks ? a.v[j] / Tr[j] : splat(inf);
            },
            way);
    }

    // True where every variable of S stays above zero when r grows by `way`.
    bool can_grow(int r, double way) const {
        const V* Tr = row(a.T, r);
        M below = {};
        for (int j = 0; j < nv(); ++j) below |= a.free[j] & (a.v[j] - way * Tr[j] < 0.0);
        return !bits(below);
    }

    // Pivot until no multiplier of N lies below -tol_w; false where the count of pivots says that rounding
    // leads in circles.
    bool pivot() {
        const int limit = sweeps + 6 * k + 20;
        while (sweeps < limit) {
            double w;
            const int r = argmin([&](int j) { return a.bound[j] ? a.v[j] : splat(inf); }, w);
            if (r < 0 || w >= -tol_w) return true;
            double xr = 0;
            for (bool inside = false; !inside && sweeps < limit;) {
                V* Tr = row(a.T, r);
                const double d = at(Tr, r);
                double theta = -at(a.v, r) / d;
                int leaving = r;
                inside = d >= 0.25 * ridge && can_grow(r, theta);
                if (!inside) {
                    leaving = first_to_leave(r, theta);
                    inside = leaving < 0 && d < 0.25 * ridge;
                    if (inside) at(Tr, r) = ridge, theta = -at(a.v, r) / ridge, leaving = r;
                    if (leaving < 0) return false;  // NaN: the tableau has broken down
                }
                for (int j = 0; j < nv(); ++j) a.v[j] += theta * a.sign[j] * Tr[j];
                xr += theta;
                at(a.v, leaving) = inside ? xr : 0.0;
                sweep(leaving, inside);
            }
        }
        return false;
    }

    // out = Σ_{i in S} weight_i·row_i of a matrix.
    void sum_rows(V* matrix, V* weight, V* out) const {
        V local[NV ? NV : 1];
        V* total = NV ? local : out;
        for (int j = 0; j < nv(); ++j) total[j] = V{};
        for (int i = 0; i < k; ++i)
            if (at(a.free, i)) {
                const double w = at(weight, i);
                const V* r = row(matrix, i);
                for (int j = 0; j < nv(); ++j) total[j] += w * r[j];
            }
        if (NV)
            for (int j = 0; j < nv(); ++j) out[j] = total[j];
    }

    // rho = q(1 - t) - Cx from the data, t = qᵀx (t stands for 0 where A = C). x is v on S.
    void residual() {
        V tv = {}, nx = {};
        for (int j = 0; j < nv(); ++j) {
            const V x = a.free[j] ? a.v[j] : V{};
            tv += x * a.q[j];
            nx += x;
        }
        norm1 = sum(nx);
        t = set.rank1 ? sum(tv) : 0.0;
        trace = 0;
        for (int i = 0; i < k; ++i) trace -= at(a.free, i) ? at(row(a.T, i), i) : 0.0;
        sum_rows(a.C, a.v, a.rho);
        for (int j = 0; j < nv(); ++j) a.rho[j] = a.q[j] * (1.0 - t) - a.rho[j];
    }

    // step = A_SS⁻¹ rho on S; returns rho·step, twice what the objective can still fall on S.
    double correction() {
        sum_rows(a.T, a.rho, a.step);
        V fall = {};
        for (int j = 0; j < nv(); ++j) {
            a.step[j] = -a.step[j];
            fall += a.free[j] ? a.step[j] * a.rho[j] : V{};
        }
        return sum(fall);
    }

    double largest_residual() const {
        V m = {};
        for (int j = 0; j < nv(); ++j) {
            const V r = a.free[j] ? a.rho[j] : V{}, size = r < 0.0 ? -r : r;
            m = m < size ? size : m;
        }
        double largest = m[0];
        for (int i = 1; i < W; ++i) largest = largest < m[i] ? m[i] : largest;
        return largest;
    }

    void apply() {
        for (int j = 0; j < nv(); ++j) a.v[j] += a.free[j] ? a.step[j] : V{};
    }

    // Leaves x in v on S, the multipliers in v on N, and rho at that x. True where it is the minimiser; with rank1
    // a t above 1 would mean xᵀCx < 0.
    bool solve() {
        const double tolerance = 0.5 * set.eps;
        bool stationary = pivot();
        for (int round = 0; round < 12 && stationary; ++round) {
            stationary = false;
            double scale = 1;
            for (int n = 0; n < 6 && !stationary; ++n) {
                residual();
                const double fall = correction();
                scale = std::fmax(1.0, norm1);
                stationary = n > 0 && std::fabs(fall) <= tolerance && largest_residual() <= 8 * set.eps * scale;
                if (!stationary) apply();
            }
            // What rounding in the residual itself could hide, from the objective (an eigenvalue e of A_SS turns it
            // into e·(unseen/(e + ridge))² at most) and from the multipliers.
            const double unseen = std::numeric_limits<double>::epsilon() * scale;
            if (!(unseen * unseen * trace <= 16 * tolerance && unseen <= 256 * set.eps)) return false;
            tol_w = 2 * set.eps * scale;
            if (drop_negative()) continue;
            bool optimal = true;
            for (int j = 0; j < nv(); ++j) a.v[j] = a.bound[j] ? -a.rho[j] : a.v[j];
            for (int i = 0; i < k; ++i) optimal = optimal && !(at(a.bound, i) && at(a.v, i) < -tol_w);
            if (optimal) return stationary && !gain_in_doubt(scale) && !(t - 1.0 > 64 * set.eps * scale * scale);
            stationary = pivot();
        }
        return false;
    }

    // A multiplier of N that is zero up to rounding could be a little negative. Entering would then gain at most
    // |w_i| times the way until a variable blocks, and at most |w_i|/q_i since the objective (1 - t)/t is convex.
    // For equal gradients that is nothing; for opposite ones with tiny q_i (huge norms, small σ), which would
    // carry huge x_i, it may be everything. The same goes for a direction within S along which C is zero: the column
    // of T of any variable with a part in it points there, since 1/ridge is what A_SS⁻¹ makes of it.
    bool gain_in_doubt(double scale) const {
        const double eps = std::numeric_limits<double>::epsilon(), noise = eps * scale;
        if (!set.rank1 || set.eps > eps || 1.0 - t <= eps) return false;
        for (int i = 0; i < k; ++i) {
            double way;
            if (at(a.bound, i) && at(a.v, i) < noise) {
                first_to_leave(i, way);
                const double loss = std::fmin(at(a.v, i), 0.0) - noise;
                if (-loss * std::fmin(way, 1.0 / at(a.q, i)) > 5 * noise) return true;
            }
            const double inverse = at(a.free, i) ? -at(row(a.T, i), i) : 0.0;
            if (inverse * ridge > 1e-3) {
                V qn = {};
                for (int j = 0; j < nv(); ++j) qn += a.free[j] ? a.q[j] * row(a.T, i)[j] : V{};
                first_to_leave(i, way);
                if (std::fmin(way, 1.0 / std::fabs(sum(qn))) * inverse > 5) return true;
            }
        }
        return false;
    }

    // Corrections may push a variable that was about zero below it. True where one was more than rounding,
    // so that the others have to be corrected again.
    bool drop_negative() {
        bool again = false;
        for (int i = 0; i < k; ++i)
            if (at(a.free, i) && at(a.v, i) < 0) {
                again = again || at(a.v, i) < -tol_w;
                at(a.v, i) = 0.0;
                sweep(i, false);
            }
        return again;
    }
};

}  // namespace pcl::PCL_ISA
