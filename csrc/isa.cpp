#include "isa.hpp"

#include <atomic>

#if defined(PCL_BUILT_avx512)
#include <cpuid.h>
#endif

namespace pcl {
namespace {

#if defined(PCL_BUILT_avx512)
// Half precision conversions; clang++ before 19 does not know "f16c" in __builtin_cpu_supports.
bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

Isa detect() {
#if defined(PCL_BUILT_avx512)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return Isa::avx512;
    if (avx2) return Isa::avx2;
#endif
    return Isa::baseline;
}

std::atomic<Isa> in_use{detect()};

}  // namespace

Isa best_isa() {
    static const Isa best = detect();
    return best;
}

Isa current_isa() { return in_use.load(std::memory_order_relaxed); }

bool use_isa(Isa isa) {
    if (isa > best_isa()) return false;
    in_use.store(isa, std::memory_order_relaxed);
    return true;
}

}  // namespace pcl
