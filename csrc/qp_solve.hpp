// What the small problems share around the solver core: memory, exact power-of-two scaling, choice of the row width,
// the careful second attempt, and the loop over a batch.
#pragma once

#include <memory>
#include <new>

#include "qp_core.hpp"
#include "qp_exact.hpp"
#include "qp_info.hpp"

namespace pcl::PCL_ISA {

// Working memory of one thread: on the stack up to k = 64, on the heap beyond.
class Workspace {
    static constexpr int stack_k = 64, stack_nv = stack_k / W;
    V stack_[2 * stack_k * stack_nv + 7 * stack_nv];
    std::unique_ptr<V[]> heap_;

  public:
    const int k, nv;
    Arrays arrays;

    explicit Workspace(int k)
        : heap_(k > stack_k ? new V[Arrays::vectors(k, (k + W - 1) / W)] : nullptr), k(k), nv((k + W - 1) / W),
          arrays(heap_ ? heap_.get() : stack_, k, nv) {}
};

struct Outcome {
    bool solved;
    int pivots;
};

template <int NV>
Outcome run_core(const Arrays& a, int k, int nv, const Settings& set) {
    Core<NV> core(a, set, k, nv);
    core.start();
    const bool solved = core.solve();
    for (int j = 0; j < nv; ++j) a.step[j] = a.free[j] & (a.v[j] > 0.0) ? a.v[j] : V{};  // also where unsolved
    return {solved, core.sweeps};
}

// Minimise 1/2 xᵀAx - qᵀx over x >= 0 for the C and q in `a`; x ends in a.step. `solved` is false where double
// precision cannot vouch for it.
inline Outcome minimise(const Arrays& a, int k, int nv, const Settings& set) {
    using Run = Outcome (*)(const Arrays&, int, int, const Settings&);
    static constexpr Run by_width[] = {run_core<0>, run_core<1>, run_core<2>, run_core<3>, run_core<4>,
                                       run_core<5>, run_core<6>, run_core<7>, run_core<8>};
    return by_width[nv <= 8 ? nv : 0](a, k, nv, set);
}

// 2^n, also where it is subnormal, zero or infinite.
inline double pow2(int n) {
    if (n < -1022 || n > 1023) return std::ldexp(1.0, n);
    const std::uint64_t bits = std::uint64_t(n + 1023) << 52;
    double d;
    std::memcpy(&d, &bits, 8);
    return d;
}

// The e with 2^e <= a < 2^(e+1), for finite a > 0.
inline int exponent(double a) {
    std::uint64_t bits;
    std::memcpy(&bits, &a, 8);
    const int e = int(bits >> 52);
    return e ? e - 1023 : std::ilogb(a);
}

inline std::int64_t bits_of(double a) {
    std::int64_t b;
    std::memcpy(&b, &a, 8);
    return b;
}

// C = DGD with D the powers of two that bring the diagonal into [1, 4); zero rows stay zero. Only the symmetric
// part of G counts. Returns false where an entry is NaN or infinite. e[i] is the exponent of D_ii.
template <class T>
bool scale_gramian(const T* G, int k, const Arrays& a, int nv, int* e, double* d) {
    double* C = reinterpret_cast<double*>(a.C);
    const long ld = long(nv) * W;
    for (int i = 0; i < k; ++i) {
        const double g = double(G[long(i) * k + i]);
        const bool positive = g > 0 && g < inf;
        e[i] = positive ? -(exponent(g) >> 1) : 0;
        d[i] = positive ? pow2(e[i]) : 1.0;
    }
    double poison = 0;
    for (int i = 0; i < k; ++i) {
        double* Ci = C + i * ld;
        for (int j = 0; j < k; ++j) Ci[j] = double(G[long(i) * k + j]) * d[i] * d[j];
        for (long j = k; j < ld; ++j) Ci[j] = 0.0;
#pragma omp simd reduction(+ : poison)
        for (int j = 0; j < k; ++j) poison += Ci[j] - Ci[j];
    }
    std::int64_t unequal = 0;  // bits compare faster than numbers; 0 and -0 only cost the work below
    for (int i = 1; i < k; ++i)
        for (int j = 0; j < i; ++j) unequal |= bits_of(C[i * ld + j]) ^ bits_of(C[j * ld + i]);
    for (int i = 1; i < k && unequal; ++i)
        for (int j = 0; j < i; ++j) C[i * ld + j] = C[j * ld + i] = 0.5 * (C[i * ld + j] + C[j * ld + i]);
    return poison == 0.0;
}

// Runs solve(problem, n) -> Status for the problems n of a batch, each thread with a Problem(k) of its own. Returns -1,
// or 8n + status for the first n that was refused.
template <class Problem, class Solve>
long for_each_problem(long batch, int k, int threads, const Solve& solve) {
    long failed = -1;
    if (threads == 1) {
        Problem problem(k);
        for (long n = 0; n < batch; ++n) {
            const Status status = solve(problem, n);
            if (refused(status) && failed < 0) failed = 8 * n + long(status);
        }
        return failed;
    }
    const long share = batch / (8 * threads);  // taking many small ones costs more than the smallest problems do
#pragma omp parallel num_threads(threads)
    {
        Problem problem(k);
#pragma omp for schedule(dynamic, share < 16 ? 16 : share)
        for (long n = 0; n < batch; ++n) {
            const Status status = solve(problem, n);
            if (refused(status)) {
#pragma omp critical
                if (failed < 0 || n < failed / 8) failed = 8 * n + long(status);
            }
        }
    }
    return failed;
}

}  // namespace pcl::PCL_ISA
