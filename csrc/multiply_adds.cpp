// Multiply-adds in registers and nothing else: the floor that the benchmarks compare compute-bound kernels with.
#include "isa.hpp"
#include "simd.hpp"

namespace pcl::PCL_ISA {

constexpr int kChains = 12;  // independent ones: more than an instruction's latency takes to hide

// Of single-precision numbers, by all threads together; returns how many.
std::int64_t multiply_adds(std::int64_t rounds, int threads) {
    typedef float Floats __attribute__((vector_size(kWidth * 8)));
    float total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    {
        Floats x[kChains];
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) x[i] = Floats{} + float(i + 2);  // 1 would stay 1, which compilers see
        const Floats half = Floats{} + 0.5f;
        for (std::int64_t n = 0; n < rounds; ++n)
#pragma GCC unroll 12
            for (int i = 0; i < kChains; ++i) x[i] = x[i] * half + half;
#pragma GCC unroll 12
        for (int i = 0; i < kChains; ++i) total += x[i][0];
    }
    return total > 0 ? rounds * kChains * kWidth * 2 * threads : 0;
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(std::int64_t multiply_adds(std::int64_t rounds, int threads);)

namespace pcl {

void register_multiply_adds(nanobind::module_& m) {
    m.def("multiply_adds", [](std::int64_t rounds, int threads) {
        nanobind::gil_scoped_release release;
        return PCL_BEST(multiply_adds)(rounds, threads);
    });
}

}  // namespace pcl
#endif
