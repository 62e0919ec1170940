// Permutations from one seed, the same on every machine.
#include <nanobind/nanobind.h>

#include <cstdint>
#include <utility>

namespace pcl {
namespace {

// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
class SplitMix64 {
    std::uint64_t state_;

  public:
    explicit SplitMix64(std::uint64_t seed) : state_(seed) {}

    std::uint64_t operator()() {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }

    // Uniform on 0, ..., n - 1, up to n / 2^64.
    std::uint64_t below(std::uint64_t n) {
        __extension__ using Wide = unsigned __int128;
        return std::uint64_t((Wide((*this)()) * n) >> 64);
    }
};

// Fills every row [k] with a permutation of 0, ..., k - 1, all equally likely (Fisher and Yates).
void random_orders(std::uint64_t seed, std::int64_t* out, long rows, int k) {
    SplitMix64 random(seed);
    for (long r = 0; r < rows; ++r, out += k) {
        for (int j = 0; j < k; ++j) out[j] = j;
        for (int j = k - 1; j > 0; --j) std::swap(out[j], out[random.below(j + 1)]);
    }
}

}  // namespace

void register_random_orders(nanobind::module_& m) {
    m.def("random_orders", [](std::uint64_t seed, std::uintptr_t out, long rows, int k) {
        random_orders(seed, reinterpret_cast<std::int64_t*>(out), rows, k);
    });
}

}  // namespace pcl
