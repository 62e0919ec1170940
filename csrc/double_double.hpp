// Double-double arithmetic: an unevaluated sum hi + lo of two doubles, about 32 digits (Dekker 1971, Knuth).
// Must be compiled without contraction of a*b + c (-ffp-contract=off); setup.py sees to that.
#pragma once

#include <cmath>

#include "both.hpp"

namespace pcl {

struct DoubleDouble {
    double hi = 0, lo = 0;
    PCL_BOTH DoubleDouble(double a = 0) : hi(a) {}
    PCL_BOTH DoubleDouble(double a, double b) : hi(a), lo(b) {}
};

PCL_BOTH DoubleDouble quick_two_sum(double a, double b) {  // |a| >= |b|
    const double s = a + b;
    return {s, b - (s - a)};
}

PCL_BOTH DoubleDouble two_sum(double a, double b) {
    const double s = a + b, c = s - a;
    return {s, (a - (s - c)) + (b - c)};
}

PCL_BOTH DoubleDouble two_product(double a, double b) {
#ifdef __CUDA_ARCH__
    const double p = __dmul_rn(a, b);  // which nvcc never contracts
#else
    const double p = a * b;
#endif
    return {p, std::fma(a, b, -p)};
}

PCL_BOTH DoubleDouble operator-(DoubleDouble a) { return {-a.hi, -a.lo}; }

PCL_BOTH DoubleDouble operator+(DoubleDouble a, DoubleDouble b) {
    DoubleDouble s = two_sum(a.hi, b.hi), t = two_sum(a.lo, b.lo);
    s = quick_two_sum(s.hi, s.lo + t.hi);
    return quick_two_sum(s.hi, s.lo + t.lo);
}

PCL_BOTH DoubleDouble operator-(DoubleDouble a, DoubleDouble b) { return a + (-b); }

PCL_BOTH DoubleDouble operator*(DoubleDouble a, DoubleDouble b) {
    const DoubleDouble p = two_product(a.hi, b.hi);
    return quick_two_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}

PCL_BOTH DoubleDouble operator/(DoubleDouble a, DoubleDouble b) {
    const double q1 = a.hi / b.hi;
    DoubleDouble r = a - b * DoubleDouble(q1);
    const double q2 = r.hi / b.hi;
    r = r - b * DoubleDouble(q2);
    return quick_two_sum(q1, q2) + DoubleDouble(r.hi / b.hi);
}

PCL_BOTH bool operator<(DoubleDouble a, DoubleDouble b) { return a.hi < b.hi || (a.hi == b.hi && a.lo < b.lo); }

}  // namespace pcl
