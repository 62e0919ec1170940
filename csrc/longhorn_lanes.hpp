// Vectors of channels for the Longhorn scan: loads and stores of every dtype, the exponential, sums over lanes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "simd.hpp"

namespace pcl::PCL_ISA {

#if defined(__AVX512F__)
constexpr int kScanBytes = 64;  // of a vector
#elif defined(__AVX2__)
constexpr int kScanBytes = 32;
#else
constexpr int kScanBytes = 16;
#endif

// The type to compute in: double for double, else float.
template <class T>
struct Compute {
    using type = float;
};
template <>
struct Compute<double> {
    using type = double;
};

template <class S>
constexpr int kScanLanes = kScanBytes / sizeof(S);

template <class S>
struct ScanVec {
    typedef S type __attribute__((vector_size(kScanBytes)));
};
template <class S>
using Scan = typename ScanVec<S>::type;

typedef Scan<float> Floats;
constexpr int kFloats = kScanLanes<float>;

inline float widen_float(float x) { return x; }
inline double widen_float(double x) { return x; }
inline float widen_float(Bfloat16 x) { return static_cast<float>(widen(x)); }
inline float widen_float(Float16 x) { return static_cast<float>(widen(x)); }

template <class S>
inline Scan<S> splat(S x) {
    return x - Scan<S>{};
}

// A vector of T anywhere in memory.
template <class S, class Enabled = std::enable_if_t<std::is_floating_point_v<S>>>
inline Scan<S> load_lanes(const S* from) {
    Scan<S> x;
    std::memcpy(&x, from, sizeof x);
    return x;
}
inline Scan<float> load_lanes(const Bfloat16* from) {
    typedef std::uint16_t Half __attribute__((vector_size(kScanBytes / 2), aligned(2), may_alias));
    typedef std::uint32_t Word __attribute__((vector_size(kScanBytes)));
    return bits<Scan<float>>(__builtin_convertvector(*reinterpret_cast<const Half*>(from), Word) << 16);
}
inline Scan<float> load_lanes(const Float16* from) {
#if defined(__AVX512F__)
    return bits<Scan<float>>(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
    return bits<Scan<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
    Scan<float> x;
    for (int i = 0; i < kScanLanes<float>; ++i) x[i] = widen_float(from[i]);
    return x;
#endif
}

template <class S, class Enabled = std::enable_if_t<std::is_floating_point_v<S>>>
inline void store_lanes(S* to, Scan<S> x) {
    std::memcpy(to, &x, sizeof x);
}
inline void store_lanes(Bfloat16* to, Scan<float> x) {
    typedef std::uint16_t Half __attribute__((vector_size(kScanBytes / 2), aligned(2), may_alias));
    typedef std::uint32_t Word __attribute__((vector_size(kScanBytes)));
    const Word word = bits<Word>(x), rounded = (word + 0x7fff + (word >> 16 & 1)) >> 16;
    const Word finite = bits<Word>(x == x), nan = Word{} + 0x7fc0;
    *reinterpret_cast<Half*>(to) = __builtin_convertvector((rounded & finite) | (nan & ~finite), Half);
}
inline void store_lanes(Float16* to, Scan<float> x) {
#if defined(__AVX512F__)
    const __m256i half = _mm512_maskz_cvtps_ph(0xffff, bits<__m512>(x), 0);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half);
#elif defined(__F16C__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(bits<__m256>(x), 0));
#else
    for (int i = 0; i < kScanLanes<float>; ++i) to[i] = narrow<Float16>(x[i]);
#endif
}

// The first `width` lanes alone; the rest are zero.
template <class T, class S = typename Compute<T>::type>
inline Scan<S> load_some(const T* from, int width) {
    if (width == kScanLanes<S>) return load_lanes(from);
    T room[kScanLanes<S>] = {};
    std::copy_n(from, width, room);
    return load_lanes(room);
}
template <class T, class S = typename Compute<T>::type>
inline void store_some(T* to, Scan<S> x, int width) {
    if (width == kScanLanes<S>) return store_lanes(to, x);
    T room[kScanLanes<S>];
    store_lanes(room, x);
    std::copy_n(room, width, to);
}

// The same by masked vectors, where there are any.
template <class T, class S = typename Compute<T>::type>
inline Scan<S> load_part(const T* from, int width) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) return bits<Scan<S>>(_mm512_maskz_loadu_ps((1u << width) - 1, from));
#endif
    return load_some(from, width);
}
template <class T, class S = typename Compute<T>::type>
inline void store_part(T* to, Scan<S> x, int width) {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) return _mm512_mask_storeu_ps(to, (1u << width) - 1, bits<__m512>(x));
#endif
    store_some(to, x, width);
}

// x, at most `high`, or at least `low`; NaN stays NaN.
inline Scan<float> at_most(Scan<float> x, float high) {
#if defined(__AVX512F__)
    return bits<Scan<float>>(_mm512_maskz_min_ps(0xffff, bits<__m512>(splat(high)), bits<__m512>(x)));
#else
    return x > high ? splat(high) : x;
#endif
}
inline Scan<float> at_least(Scan<float> x, float low) {
#if defined(__AVX512F__)
    return bits<Scan<float>>(_mm512_maskz_max_ps(0xffff, bits<__m512>(splat(low)), bits<__m512>(x)));
#else
    return x < low ? splat(low) : x;
#endif
}

// 1 / x for x >= 1, to a rounding or two. A division is as long as all that a step does for sixteen states.
inline Scan<float> inverse(Scan<float> x) {
#if defined(__AVX512F__)
    x = at_most(x, 0x1p125f);  // of infinity there is no next guess
    const Scan<float> y = bits<Scan<float>>(_mm512_maskz_rcp14_ps(0xffff, bits<__m512>(x)));
    return y + y * (1.0f - x * y);
#else
    return 1.0f / x;
#endif
}
inline Scan<double> inverse(Scan<double> x) { return 1.0 / x; }

// Vectors that go through a long chain of instructions side by side. One after the other each would wait for its own
// chain, and the processor looks only so far ahead: it took twice as long.
constexpr int kAbreast = 4;

// e^-x to 1e-7 of kAbreast vectors: 2^n e^r with |r| <= ln(2)/2, e^r by the polynomial of degree 6
// whose greatest relative error is least, 2e-9.
// Beyond +-87 it stays where it is (double: 700), so that neither it nor its inverse is infinite.
inline void negative_exponentials(Scan<float>* x) {
    typedef std::uint32_t Word __attribute__((vector_size(kScanBytes)));
    const float ln2 = 0x1.62e4p-1f, rest = 0x1.7f7d1cp-20f;
    const float shift = 0x1.8p23f + 127;  // brings n + 127, the exponent of 2^n, to the last bits
    Scan<float> shifted[kAbreast], r[kAbreast], e[kAbreast];
#pragma GCC unroll 4
    for (int i = 0; i < kAbreast; ++i) x[i] = at_most(at_least(x[i], -87.0f), 87.0f);
#pragma GCC unroll 4
    for (int i = 0; i < kAbreast; ++i) shifted[i] = shift - x[i] * 0x1.715476p0f;
#pragma GCC unroll 4
    for (int i = 0; i < kAbreast; ++i) r[i] = (shifted[i] - shift) * -ln2 - x[i];
#pragma GCC unroll 4
    for (int i = 0; i < kAbreast; ++i) r[i] = r[i] - (shifted[i] - shift) * rest, e[i] = splat(0x1.6addf6p-10f);
#pragma GCC unroll 6
    for (float c : {0x1.126788p-7f, 0x1.555832p-5f, 0x1.55541ap-3f, 0x1.fffffcp-2f, 1.0f, 1.0f})
#pragma GCC unroll 4
        for (int i = 0; i < kAbreast; ++i) e[i] = e[i] * r[i] + c;
#pragma GCC unroll 4
    for (int i = 0; i < kAbreast; ++i) x[i] = e[i] * bits<Scan<float>>(bits<Word>(shifted[i]) << 23);
}
inline void negative_exponentials(Scan<double>* x) {
    for (int i = 0; i < kAbreast * kScanLanes<double>; ++i) {
        double& lane = reinterpret_cast<double*>(x)[i];
        lane = std::exp(-std::min(std::max(lane, -700.0), 700.0));
    }
}

// Memory on the boundary of a vector.
template <class S>
struct Lined {
    std::vector<S> memory;
    S* at;
    explicit Lined(std::int64_t size) : memory(size + kScanLanes<S>) {
        const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
        at = memory.data() + (kScanBytes - address % kScanBytes) % kScanBytes / sizeof(S);
    }
    Scan<S>* vec(std::int64_t i = 0) { return reinterpret_cast<Scan<S>*>(at) + i; }
};

// The same for floats, not cleared.
class Room {
    std::unique_ptr<float[]> memory_;

  public:
    float* at;
    explicit Room(std::int64_t size) : memory_(new float[size + kScanLanes<float>]) {
        const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
        at = memory_.get() + (kScanBytes - address % kScanBytes) % kScanBytes / sizeof(float);
    }
};

// Lanes at[i]... of a, and beyond its last those of b.
template <class S, std::size_t... at>
inline Scan<S> shuffled(const Scan<S>& a, const Scan<S>& b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, at...);
#else
    typedef std::conditional_t<sizeof(S) == 8, std::int64_t, std::int32_t> Int;
    typedef Int Lanes __attribute__((vector_size(kScanBytes)));
    return __builtin_shuffle(a, b, Lanes{Int(at)...});
#endif
}

// In lanes i without the bit h a[i] + a[i ^ h], in those with it b's.
template <class S, std::size_t h, std::size_t... i>
inline Scan<S> folded(const Scan<S>& a, const Scan<S>& b, std::index_sequence<i...>) {
    constexpr std::size_t W = sizeof...(i);
    return shuffled<S, (i & h ? W + i : i)...>(a, b) + shuffled<S, (i & h ? W + (i ^ h) : i ^ h)...>(a, b);
}
template <class S, std::size_t h>
inline void fold(Scan<S>* v) {
    if constexpr (h > 0) {
#pragma GCC unroll 16
        for (std::size_t j = 0; j < h; ++j)
            v[j] = folded<S, h>(v[j], v[j + h], std::make_index_sequence<kScanLanes<S>>{});
        fold<S, h / 2>(v);
    }
}

// Of as many vectors as each has lanes: lane i of vector j becomes lane j of vector i.
template <class S, std::size_t h, std::size_t... i>
inline void swap_blocks(Scan<S>& a, Scan<S>& b, std::index_sequence<i...>) {
    constexpr std::size_t W = sizeof...(i);
    const Scan<S> first = shuffled<S, (i & h ? W + (i ^ h) : i)...>(a, b);
    b = shuffled<S, (i & h ? W + i : i ^ h)...>(a, b), a = first;
}
template <class S, std::size_t h = kScanLanes<S> / 2>
inline void transpose(Scan<S>* v) {
    if constexpr (h > 0) {
#pragma GCC unroll 16
        for (std::size_t j = 0; j < kScanLanes<S>; ++j)
            if (!(j & h)) swap_blocks<S, h>(v[j], v[j + h], std::make_index_sequence<kScanLanes<S>>{});
        transpose<S, h / 2>(v);
    }
}

// The sum over lanes of each of `count` vectors, which are zero afterwards; count is a multiple of the lanes.
template <class S>
inline void sum_lanes(Scan<S>* from, std::int64_t count, S* to) {
    constexpr int W = kScanLanes<S>;
    for (std::int64_t i = 0; i < count; i += W) {
        Scan<S> v[W];
#pragma GCC unroll 16
        for (int j = 0; j < W; ++j) v[j] = from[i + j], from[i + j] = Scan<S>{};
        fold<S, W / 2>(v);
        store_lanes(to + i, v[0]);
    }
}

}  // namespace pcl::PCL_ISA
