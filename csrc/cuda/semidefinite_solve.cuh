// X = A⁺B for positive semidefinite A, one problem on one warp, which on the processor has one lane
// (csrc/semidefinite_solve.cpp).
#pragma once

#include "gramian.cuh"
#include "linear.cuh"

namespace PCL_WARP_NAMESPACE {

struct SemidefiniteBatch {
    const double* a;  // [batch, k, k]
    const double* b;  // [batch, m, k]: right-hand sides are rows
    double* x;        // [batch, m, k]
    double cutoff;    // of the largest diagonal entry
    long batch;
    int k, m;
};

// Doubles per warp in fast memory and in global memory.
struct SemidefiniteMemory {
    static constexpr PCL_BOTH long fast(long k) { return (k <= largest_fast ? k * k : 0) + 3 * k; }
    static constexpr PCL_BOTH long global(long k) { return k * k + PseudoInverse::doubles(k); }
};

// Problem n of the batch; `fast` and `global` as many doubles as SemidefiniteMemory says, of this warp alone.
PCL_DEVICE void semidefinite_solve(const SemidefiniteBatch& all, long n, double* fast, double* global) {
    const int k = all.k;
    const double* const A = all.a + n * k * k;
    Room near{fast}, far{global};
    double* const scratch = near.doubles(k);
    int* const ints = near.ints(2 * k);
    double* const T = k <= largest_fast ? near.next : far.doubles(k * k);
    for (int at = lane(); at < k * k; at += LANES) T[at] = A[at];
    sync();
    PseudoInverse inverse(T, k, all.cutoff, far.next, ints);
    for (long m = n * all.m; m < (n + 1) * all.m; ++m) inverse.solve(A, all.b + m * k, all.x + m * k, scratch);
}

}  // namespace PCL_WARP_NAMESPACE
