// out = u (|v|² + c) - d, row by row: what the memory edit adds to the matrix products of a linear layer
// (pcl_kernels/memory_edit/op.py). Arithmetic in double, every element rounded once.
#include "gradients.hpp"
#include "isa.hpp"
#include "simd.hpp"

namespace pcl::PCL_ISA {

template <class T>
double squared_norm(const T* v, std::int64_t n) {
    Vec sum[kLanes / kWidth] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
        for (int part = 0; part < kLanes / kWidth; ++part) {
            const Vec x = widen_vec(v + i + part * kWidth);
            sum[part] += x * x;
        }
    double total = 0;
    for (const Vec& part : sum)
        for (int lane = 0; lane < kWidth; ++lane) total += part[lane];
    for (; i < n; ++i) total += widen(v[i]) * widen(v[i]);
    return total;
}

void row_term(int dtype, const void* u, const void* v, double c, const void* d, void* out, std::int64_t rows,
              std::int64_t width, std::int64_t width_v, int threads) {
    with_type(dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* minus = static_cast<const T*>(d);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
        for (std::int64_t b = 0; b < rows; ++b) {
            const double scale = squared_norm(static_cast<const T*>(v) + b * width_v, width_v) + c;
            const T* __restrict from = static_cast<const T*>(u) + b * width;
            T* __restrict to = static_cast<T*>(out) + b * width;
            if (minus)
                for (std::int64_t i = 0; i < width; ++i) to[i] = narrow<T>(scale * widen(from[i]) - widen(minus[i]));
            else
                for (std::int64_t i = 0; i < width; ++i) to[i] = narrow<T>(scale * widen(from[i]));
        }
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <pybind11/pybind11.h>

PCL_EVERY_ISA(void row_term(int dtype, const void* u, const void* v, double c, const void* d, void* out,
                            std::int64_t rows, std::int64_t width, std::int64_t width_v, int threads);)

namespace pcl {

void register_row_term(pybind11::module_& m) {
    using Address = std::uintptr_t;
    m.def("row_term", [](int dtype, Address u, Address v, double c, Address d, Address out, std::int64_t rows,
                         std::int64_t width, std::int64_t width_v, int threads) {
        pybind11::gil_scoped_release release;
        PCL_BEST(row_term)(dtype, reinterpret_cast<const void*>(u), reinterpret_cast<const void*>(v), c,
                           reinterpret_cast<const void*>(d), reinterpret_cast<void*>(out), rows, width, width_v,
                           threads);
    });
}

}  // namespace pcl
#endif
