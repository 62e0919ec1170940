// How Python hands the operands of the Firefly kernels over.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <tuple>

#include "firefly_usual.hpp"

namespace pcl {

using FireflySizes = std::tuple<Size, Size, Size, bool, int, int>;  // outer, channels, positions, rows, dtype, activation
using FireflyVectors = std::array<std::uintptr_t, 4>;               // epsilon, scale, shift, mirror; 0 is "absent"
using Address = std::uintptr_t;
using FireflyOperands = std::array<Address, 5>;                     // of a layer: x, W, Δ, b, β; 0 is "absent"
using FireflyPair = std::tuple<std::uintptr_t, Size>;               // address, step

inline float* floats(Address at) { return reinterpret_cast<float*>(at); }

inline FireflyWeights weights(const FireflyOperands& of, bool channels_last) {
    return {floats(of[1]), floats(of[2]), floats(of[3]), floats(of[4]), channels_last};
}

inline FireflyTensor tensor(const FireflyPair& t) { return {std::get<0>(t), std::get<1>(t)}; }

inline Firefly firefly(const FireflySizes& sizes, const FireflyVectors& vectors, const FireflyPair& a,
                       const FireflyPair& d, int threads) {
    const auto [outer, channels, positions, rows, dtype, activation] = sizes;
    const auto vector = [&](int i) { return reinterpret_cast<const double*>(vectors[i]); };
    return {outer,     channels,  positions, rows,      dtype,     activation, vector(0),
            vector(1), vector(2), vector(3), tensor(a), tensor(d), threads};
}

}  // namespace pcl
