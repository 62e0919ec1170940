// The careful twin of qp_core.hpp, for the few problems where double precision cannot vouch for the answer.
#pragma once

namespace pcl {

// min 1/2 xᵀAx - qᵀx over x >= 0, A = C + qqᵀ where `rank1`, else C. Everything in double-double arithmetic
// (about 32 digits). C is (k, k) with rows `stride` apart and about unit diagonal. Writes x and adds its pivots
// to `pivots`. False where no minimiser was reached: A is not positive semidefinite to within rounding, or
// the objective falls without end.
bool solve_exactly(int k, const double* C, long stride, const double* q, bool rank1, double* x, int& pivots);

// min xᵀCx / (sᵀx)² over x >= 0, s > 0, better than the x that comes in or equal to it. False where the result is
// not certified.
bool simplex_exactly(int k, const double* C, long stride, const double* s, double* x, int& pivots);

}  // namespace pcl
