// How Python hands the operands of the Firefly kernels over.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <tuple>

#include "firefly.hpp"

namespace pcl {

using FireflySizes = std::tuple<Size, Size, Size, bool, int, int>;  // outer, channels, positions, rows, dtype, activation
using FireflyVectors = std::array<std::uintptr_t, 4>;               // epsilon, scale, shift, mirror; 0 is "absent"
using FireflyPair = std::tuple<std::uintptr_t, Size>;               // address, step

inline FireflyTensor tensor(const FireflyPair& t) { return {std::get<0>(t), std::get<1>(t)}; }

inline Firefly firefly(const FireflySizes& sizes, const FireflyVectors& vectors, const FireflyPair& a,
                       const FireflyPair& d, int threads) {
    const auto [outer, channels, positions, rows, dtype, activation] = sizes;
    const auto vector = [&](int i) { return reinterpret_cast<const double*>(vectors[i]); };
    return {outer,     channels,  positions, rows,      dtype,     activation, vector(0),
            vector(1), vector(2), vector(3), tensor(a), tensor(d), threads};
}

}  // namespace pcl
