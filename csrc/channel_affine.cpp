// The passes of the memory edit through a normalisation whose statistics are fixed (pcl_kernels/memory_edit/op.py):
// sums over positions and an affine map, for every sample and channel. Arithmetic in double, rounded once.
#include <vector>

#include "channel_affine.hpp"
#include "gradients.hpp"
#include "isa.hpp"
#include "simd.hpp"

namespace pcl::PCL_ISA {

template <class T>
void sums_of_sample(const Layout& s, const T* delta, const T* u, double* plain, double* product) {
    std::fill_n(plain, s.channels, 0.0);
    std::fill_n(product, s.channels, 0.0);
    if (s.channels_last) {
        for (Size l = 0; l < s.positions; ++l, delta += s.channels, u += s.channels)
            for (Size c = 0; c < s.channels; ++c) {
                plain[c] += widen(delta[c]);
                product[c] += widen(delta[c]) * widen(u[c]);
            }
        return;
    }
    for (Size c = 0; c < s.channels; ++c, delta += s.positions, u += s.positions) {
        double a[kLanes] = {}, b[kLanes] = {};  // a fixed order, that vectors can follow
        Size l = 0;
        for (; l + kLanes <= s.positions; l += kLanes)
            for (int i = 0; i < kLanes; ++i) {
                a[i] += widen(delta[l + i]);
                b[i] += widen(delta[l + i]) * widen(u[l + i]);
            }
        for (; l < s.positions; ++l) {
            a[0] += widen(delta[l]);
            b[0] += widen(delta[l]) * widen(u[l]);
        }
        for (int i = 0; i < kLanes; ++i) {
            plain[c] += a[i];
            product[c] += b[i];
        }
    }
}

void channel_sums(const Layout& s, int dtype, const void* delta, const void* u, double* plain, double* product,
                  int threads) {
    const Size size = s.channels * s.positions;
    with_type(dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
        for (Size b = 0; b < s.samples; ++b)
            sums_of_sample<T>(s, static_cast<const T*>(delta) + b * size, static_cast<const T*>(u) + b * size,
                              plain + b * s.channels, product + b * s.channels);
    });
}

template <class T, class F>
void map_sample(const Layout& s, T* __restrict out, F&& value) {
    if (s.channels_last) {
        for (Size l = 0, i = 0; l < s.positions; ++l)
            for (Size c = 0; c < s.channels; ++c, ++i) out[i] = narrow<T>(value(i, c));
    } else {
        for (Size c = 0, i = 0; c < s.channels; ++c)
            for (Size l = 0; l < s.positions; ++l, ++i) out[i] = narrow<T>(value(i, c));
    }
}

// out = scale_c u + p_bc v + q_bc for one sample; u may be absent
template <class T>
void affine_sample(const Layout& s, const T* u, const double* scale, const T* v, const double* p, const double* q,
                   T* out) {
    if (u)
        map_sample<T>(s, out, [=](Size i, Size c) { return scale[c] * widen(u[i]) + (p[c] * widen(v[i]) + q[c]); });
    else
        map_sample<T>(s, out, [=](Size i, Size c) { return p[c] * widen(v[i]) + q[c]; });
}

void channel_affine(const Layout& s, int dtype, const void* u, const double* scale, const void* v, const double* p,
                    const double* q, void* out, int threads) {
    const Size size = s.channels * s.positions;
    with_type(dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
        for (Size b = 0; b < s.samples; ++b)
            affine_sample<T>(s, u ? static_cast<const T*>(u) + b * size : nullptr, scale,
                             static_cast<const T*>(v) + b * size, p + b * s.channels, q + b * s.channels,
                             static_cast<T*>(out) + b * size);
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(void channel_sums(const Layout& s, int dtype, const void* delta, const void* u, double* plain,
                                double* product, int threads);
              void channel_affine(const Layout& s, int dtype, const void* u, const double* scale, const void* v,
                                  const double* p, const double* q, void* out, int threads);)

namespace pcl {

void register_channel_affine(nanobind::module_& m) {
    using Address = std::uintptr_t;
    m.def("channel_sums", [](Size samples, Size channels, Size positions, bool channels_last, int dtype,
                             Address delta, Address u, Address plain, Address product, int threads) {
        nanobind::gil_scoped_release release;
        PCL_BEST(channel_sums)({samples, channels, positions, channels_last}, dtype,
                               reinterpret_cast<const void*>(delta), reinterpret_cast<const void*>(u),
                               reinterpret_cast<double*>(plain), reinterpret_cast<double*>(product), threads);
    });
    m.def("channel_affine", [](Size samples, Size channels, Size positions, bool channels_last, int dtype, Address u,
                               Address scale, Address v, Address p, Address q, Address out, int threads) {
        nanobind::gil_scoped_release release;
        PCL_BEST(channel_affine)({samples, channels, positions, channels_last}, dtype,
                                 reinterpret_cast<const void*>(u), reinterpret_cast<const double*>(scale),
                                 reinterpret_cast<const void*>(v), reinterpret_cast<const double*>(p),
                                 reinterpret_cast<const double*>(q), reinterpret_cast<void*>(out), threads);
    });
}

}  // namespace pcl
#endif
