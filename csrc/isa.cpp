#include "isa.hpp"

#include <atomic>

namespace pcl {
namespace {

Isa detect() {
#if defined(PCL_BUILT_avx512)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
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
