// Activations and their slopes on vectors of lanes (longhorn_lanes.hpp): float to about two roundings of the larger of
// 1 and the result, double by the C library. Nothing overflows on the way to a finite result.
#pragma once

#include <limits>

#include "longhorn_lanes.hpp"

namespace pcl::PCL_ISA {

template <class V>
using Element = std::decay_t<decltype(std::declval<V&>()[0])>;

template <class V>
inline V all(double x) {
    return splat(static_cast<Element<V>>(x));
}

template <class V>
inline V magnitude(V x) {
    typedef std::conditional_t<sizeof(Element<V>) == 8, std::int64_t, std::int32_t> Int;
    typedef Int Word __attribute__((vector_size(kScanBytes)));
    return bits<V>(bits<Word>(x) & std::numeric_limits<Int>::max());
}

template <class F>
inline Scan<double> lane_by_lane(Scan<double> x, F&& f) {
    for (int i = 0; i < kScanLanes<double>; ++i) x[i] = f(x[i]);
    return x;
}

// e^-x for x >= 0. As in `negative_exponentials`, but 0 where it leaves the normal numbers: x times it must vanish.
inline Scan<float> decay(Scan<float> x) {
    typedef std::uint32_t Word __attribute__((vector_size(kScanBytes)));
    const float ln2 = 0x1.62e4p-1f, rest = 0x1.7f7d1cp-20f, shift = 0x1.8p23f + 127;
    const Scan<float> shifted = shift - x * 0x1.715476p0f, n = shifted - shift;
    const Scan<float> r = (n * -ln2 - x) - n * rest;
    Scan<float> e = splat(0x1.6addf6p-10f);
#pragma GCC unroll 6
    for (float c : {0x1.126788p-7f, 0x1.555832p-5f, 0x1.55541ap-3f, 0x1.fffffcp-2f, 1.0f, 1.0f}) e = e * r + c;
    return x > 87.0f ? Scan<float>{} : e * bits<Scan<float>>(bits<Word>(shifted) << 23);
}
inline Scan<double> decay(Scan<double> x) {
    return lane_by_lane(x, [](double v) { return std::exp(-v); });
}

// Φ(u), the share of a normal distribution below u. Φ(-z) = e^(-z²/2) v p((1 - z/4) v) with v = 1 / (1 + z/4), where
// the polynomial p meets it at the ten Chebyshev points of 0 <= z <= 13.25; its relative error is 1.2e-8.
inline Scan<float> normal_below(Scan<float> u, Scan<float> bell) {
    const Scan<float> quarter = at_most(magnitude(u), 20.0f) * 0.25f, v = 1.0f / (1.0f + quarter);
    const Scan<float> t = (1.0f - quarter) * v;
    Scan<float> p = splat(0x1.e47f26p-16f);
#pragma GCC unroll 9
    for (float c : {0x1.bd6472p-15f, -0x1.9db442p-12f, -0x1.ceaf6cp-11f, 0x1.edaafcp-10f, 0x1.eeda5ap-7f,
                    0x1.7dff56p-5f, 0x1.8c6d9p-4f, 0x1.373e3ap-3f, 0x1.82b4bcp-3f})
        p = p * t + c;
    const Scan<float> tail = bell * v * p;
    return u < 0.0f ? tail : 1.0f - tail;
}
inline Scan<double> normal_below(Scan<double> u, Scan<double>) {
    return lane_by_lane(u, [](double v) { return 0.5 * std::erfc(v * -0x1.6a09e667f3bcdp-1); });
}

// Below 0.625 by five levels of its continued fraction, which the difference of exponentials would cancel.
inline Scan<float> hyperbolic_tangent(Scan<float> u) {
    const Scan<float> z = magnitude(u), e = decay(z + z), q = u * u;
    const Scan<float> high = (945.0f + (105.0f + q) * q) * u, low = 945.0f + (420.0f + 15.0f * q) * q;
    const auto small = z < 0.625f;
    return (small ? high : u < 0.0f ? e - 1.0f : 1.0f - e) / (small ? low : 1.0f + e);
}
inline Scan<double> hyperbolic_tangent(Scan<double> u) {
    return lane_by_lane(u, [](double v) { return std::tanh(v); });
}

// Every activation is a type with `value` and `slope`, its derivative.
struct Identity {
    template <class V>
    static V value(V u) {
        return u;
    }
    template <class V>
    static V slope(V) {
        return all<V>(1);
    }
};

struct Relu {  // NaN stays NaN; the slope at 0 is 0
    template <class V>
    static V value(V u) {
        return u < V{} ? V{} : u;
    }
    template <class V>
    static V slope(V u) {
        return u <= V{} ? V{} : all<V>(1);
    }
};

struct Sigmoid {
    template <class V>
    static V value(V u) {
        const V e = decay(magnitude(u));
        return (u < V{} ? e : all<V>(1)) / (all<V>(1) + e);
    }
    template <class V>
    static V slope(V u) {
        const V e = decay(magnitude(u)), v = all<V>(1) / (all<V>(1) + e);
        return e * v * v;
    }
};

struct Silu {
    template <class V>
    static V value(V u) {
        return u * Sigmoid::value(u);
    }
    template <class V>
    static V slope(V u) {  // σ + u σ', with σ' small where u is large
        const V e = decay(magnitude(u)), v = all<V>(1) / (all<V>(1) + e);
        return (u < V{} ? e : all<V>(1)) * v + u * (e * v * v);
    }
};

struct Tanh {
    template <class V>
    static V value(V u) {
        return hyperbolic_tangent(u);
    }
    template <class V>
    static V slope(V u) {
        const V z = magnitude(u), e = decay(z + z), v = all<V>(1) / (all<V>(1) + e);
        return all<V>(4) * e * v * v;
    }
};

struct Gaussian {
    template <class V>
    static V value(V u) {
        return decay(u * u * all<V>(0.5));
    }
    template <class V>
    static V slope(V u) {
        return -u * value(u);
    }
};

struct Gelu {
    template <class V>
    static V value(V u) {
        return u * normal_below(u, Gaussian::value(u));
    }
    template <class V>
    static V slope(V u) {
        const V bell = Gaussian::value(u);
        return normal_below(u, bell) + u * (bell * all<V>(0.3989422804014327));
    }
};

// Calls f with an activation, by its number in pcl_kernels/firefly_split/checks.py.
template <class F>
inline void with_activation(int activation, F&& f) {
    switch (activation) {
        case 0: return f(Identity{});
        case 1: return f(Relu{});
        case 2: return f(Gelu{});
        case 3: return f(Silu{});
        case 4: return f(Tanh{});
        case 5: return f(Sigmoid{});
        default: return f(Gaussian{});
    }
}

}  // namespace pcl::PCL_ISA
