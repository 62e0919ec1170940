// Reads memory and does nothing with it: the floor that the benchmarks compare memory-bound kernels with.
#include "isa.hpp"
#include "simd.hpp"

namespace pcl::PCL_ISA {

std::uint64_t read_bytes(const std::vector<std::uintptr_t>& address, const std::vector<std::int64_t>& size,
                         int threads) {
    constexpr std::int64_t piece = 64 * 1024;
    std::uint64_t total = 0;
#pragma omp parallel num_threads(threads) reduction(^ : total)
    for (std::size_t i = 0; i < address.size(); ++i)
#pragma omp for schedule(static) nowait
        for (std::int64_t start = 0; start < size[i]; start += piece) {
            const std::int64_t words = std::min(piece, size[i] - start) / 8;
            const auto* from = reinterpret_cast<const char*>(address[i] + start);  // aligned to its elements only
            std::uint64_t x = 0;
            for (std::int64_t w = 0; w < words; ++w) {
                std::uint64_t word;
                std::memcpy(&word, from + 8 * w, 8);
                x ^= word;
            }
            total ^= x;
        }
    return total;
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

PCL_EVERY_ISA(std::uint64_t read_bytes(const std::vector<std::uintptr_t>& address,
                                       const std::vector<std::int64_t>& size, int threads);)

namespace pcl {

void register_read_bytes(nanobind::module_& m) {
    m.def("read_bytes", [](const std::vector<std::uintptr_t>& address, const std::vector<std::int64_t>& size,
                           int threads) {
        nanobind::gil_scoped_release release;
        return PCL_BEST(read_bytes)(address, size, threads);
    });
}

}  // namespace pcl
#endif
