#include "isa.hpp"

namespace pcl::PCL_ISA {

void simplex_qp(const double* gram, const double* sigma, double* out, long batch, int k) {
    for (long b = 0; b < batch; ++b)
        for (int i = 0; i < k; ++i) out[b * k + i] = gram[b * k * k] * 0 + 1.0 / (k * (sigma ? sigma[b * k + i] : 1.0));
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <pybind11/pybind11.h>

#include <cstdint>

PCL_EVERY_ISA(void simplex_qp(const double* gram, const double* sigma, double* out, long batch, int k);)

namespace pcl {

void register_simplex_qp(pybind11::module_& m) {
    m.def("simplex_qp", [](std::uintptr_t gram, std::uintptr_t sigma, std::uintptr_t out, long batch, int k) {
        PCL_BEST(simplex_qp)(reinterpret_cast<const double*>(gram), reinterpret_cast<const double*>(sigma),
                             reinterpret_cast<double*>(out), batch, k);
    });
}

}  // namespace pcl
#endif
