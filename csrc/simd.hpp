// The widest vectors of the instruction set a file is compiled for, and elements of any dtype as double.
//
// Everything lives in PCL_ISA: an inline function shared between instruction sets would be merged by the
// linker into one copy, and that copy is the slowest.
#pragma once

#include <cstdint>
#include <cstring>

#include "gradients.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace pcl::PCL_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 8;  // doubles in a vector
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr int kWidth = 4;
constexpr int kRegisters = 16;
#else
constexpr int kWidth = 2;
constexpr int kRegisters = 16;
#endif

// Sums run in eight lanes on every instruction set (a narrow vector holds a part of them), so that results
// have the same bits everywhere.
constexpr int kLanes = 8;

typedef double Vec __attribute__((vector_size(kWidth * 8)));

// kWidth elements of T anywhere in memory.
template <class T>
struct LooseVec {
    typedef T type __attribute__((vector_size(kWidth * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <class T>
using Loose = typename LooseVec<T>::type;

template <class To, class From>
inline To bits(const From& x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

struct Bfloat16 {
    std::uint16_t word;
};
struct Float16 {
    std::uint16_t word;
};

inline double widen(double x) { return x; }
inline double widen(float x) { return x; }
inline double widen(Bfloat16 x) { return bits<float>(std::uint32_t{x.word} << 16); }
inline double widen(Float16 x) {
    const std::uint32_t sign = (x.word & 0x8000u) << 16, exponent = x.word >> 10 & 31, mantissa = x.word & 0x3ff;
    if (exponent == 0) return (sign ? -1.0 : 1.0) * mantissa * 0x1p-24;
    const std::uint32_t shifted = exponent == 31 ? 255 : exponent + 112;
    return bits<float>(sign | shifted << 23 | mantissa << 13);
}

// A double rounded once, to nearest even, to any dtype.
template <class T>
T narrow(double x);

// The float next to x whose last bit says "not exact" (round to odd): rounding it again, to a shorter format,
// gives what rounding x itself would have given.
inline std::uint32_t round_to_odd(double x) {
    const float nearest = static_cast<float>(x);
    std::uint32_t word = bits<std::uint32_t>(nearest);
    const double back = nearest;
    if (back != x) word = (word - (__builtin_fabs(back) > __builtin_fabs(x))) | 1;
    return word;
}

template <>
inline double narrow<double>(double x) {
    return x;
}
template <>
inline float narrow<float>(double x) {
    return static_cast<float>(x);
}
template <>
inline Bfloat16 narrow<Bfloat16>(double x) {
    const std::uint32_t word = round_to_odd(x);
    const std::uint32_t rounded = (word + 0x7fff + (word >> 16 & 1)) >> 16;
    return {static_cast<std::uint16_t>(x != x ? 0x7fc0 : rounded)};
}
template <>
inline Float16 narrow<Float16>(double x) {
    const std::uint32_t word = round_to_odd(x), sign = word >> 16 & 0x8000, magnitude = word & 0x7fffffff;
    std::uint32_t half;
    if (magnitude >= 0x47800000) {  // 65536 and more, infinity, NaN
        half = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    } else if (magnitude >= 0x38800000) {  // normal in half precision; the carry reaches infinity by itself
        const std::uint32_t rebiased = magnitude - (112u << 23);
        half = (rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13;
    } else {  // subnormal: adding 0.5 leaves the value in units of 2^-24 in the last bits
        half = bits<std::uint32_t>(bits<float>(magnitude) + 0.5f) - bits<std::uint32_t>(0.5f);
    }
    return {static_cast<std::uint16_t>(sign | half)};
}

// kWidth elements as doubles; every conversion is exact. In intrinsics where there are any: from
// __builtin_convertvector gcc makes three times as many instructions. (The mask of ones keeps gcc from warning of its
// own header.)
inline Vec widen_vec(const Loose<float>& x) {
#if defined(__AVX512F__)
    return bits<Vec>(_mm512_maskz_cvtps_pd(0xff, bits<__m256>(x)));
#elif defined(__AVX2__)
    return bits<Vec>(_mm256_cvtps_pd(bits<__m128>(x)));
#else
    return __builtin_convertvector(x, Vec);
#endif
}
inline Vec widen_vec(const double* from) { return *reinterpret_cast<const Loose<double>*>(from); }
inline Vec widen_vec(const float* from) { return widen_vec(*reinterpret_cast<const Loose<float>*>(from)); }
inline Vec widen_vec(const Bfloat16* from) {
#if defined(__AVX512F__)
    const __m256i word = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return widen_vec(bits<Loose<float>>(_mm256_slli_epi32(word, 16)));
#elif defined(__AVX2__)
    const __m128i word = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    return widen_vec(bits<Loose<float>>(_mm_slli_epi32(word, 16)));
#else
    const auto half = *reinterpret_cast<const Loose<std::uint16_t>*>(from);
    return widen_vec(bits<Loose<float>>(__builtin_convertvector(half, Loose<std::uint32_t>) << 16));
#endif
}
inline Vec widen_vec(const Float16* from) {
#if defined(__AVX512F__)
    return widen_vec(bits<Loose<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))));
#elif defined(__F16C__)
    return widen_vec(bits<Loose<float>>(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))));
#else
    Vec x;
    for (int i = 0; i < kWidth; ++i) x[i] = widen(from[i]);
    return x;
#endif
}

// Calls f with a null pointer of the element type that `dtype` names.
template <class F>
inline void with_type(int dtype, F&& f) {
    switch (dtype) {
        case f32: return f(static_cast<float*>(nullptr));
        case f64: return f(static_cast<double*>(nullptr));
        case f16: return f(static_cast<Float16*>(nullptr));
        default: return f(static_cast<Bfloat16*>(nullptr));
    }
}

}  // namespace pcl::PCL_ISA
