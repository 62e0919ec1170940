// The products [W x + b; Δ x + β] of a Linear layer and both halves of its split neurons (firefly_split.cpp), which are
// taken while the products are in registers.
//
// Samples lie along the lanes: x is turned once, in panels of kGroup samples, and every number of kHalf rows each of W
// and Δ is broadcast once for a panel. y is turned back at the end.
#include "firefly_layers.hpp"
#include "firefly_products.hpp"
#include "isa.hpp"
#include "turn.hpp"

namespace pcl::PCL_ISA {

constexpr Size kPanels = 1 << 17;  // numbers of x or of y that are walked together, in the second-level cache

// y (samples, out) and, where `z` is not null, the pre-activations [a; d] (samples, 2 out).
void firefly_linear(const FireflyLinear& s, const float* x, const FireflyWeights& w, const Firefly& f, float* y, float* z) {
    const Splits<float> splits(f);
    const Size together = std::max<Size>(1, kPanels / (kGroup * std::max<Size>({s.in, s.out, 1}))) * kGroup;
    const Size most = std::min(together, (s.samples + kGroup - 1) / kGroup * kGroup);  // lanes
    // rows are read where they are, but for those that are too few and those that all fall into one set of a cache
    const bool copied = s.out < kHalf || s.in % 1024 == 0;
    const Size step = copied ? s.in + kFloats : s.in;
    const Size blocks = (s.out + kHalf - 1) / kHalf;
    const Room panels(most * s.in), out(s.out * most), kept(z ? 2 * s.out * most : 0);
    with_activation(f.activation, [&](auto activation) {
        using A = decltype(activation);
#pragma omp parallel num_threads(f.threads) if (f.threads > 1)
        {
            const Room copies(copied ? kBoth * step : 0);
            for (Size first = 0; first < s.samples; first += together) {
                const Size here = std::min(together, s.samples - first);
#pragma omp for schedule(static)
                for (Size lane = 0; lane < here; lane += kGroup) {
                    float* panel = panels.at + lane * s.in;
                    const Size used = std::min<Size>(kGroup, here - lane);
                    if (used < kGroup) std::fill_n(panel, kGroup * s.in, 0.0f);
                    turn(x + (first + lane) * s.in, s.in, used, s.in, panel, kGroup);
                }
#pragma omp for schedule(static)
                for (Size block = 0; block < blocks; ++block) {
                    const Size neuron = block * kHalf, count = std::min<Size>(kHalf, s.out - neuron);
                    const Size start = copied ? neuron : std::min(neuron, s.out - kHalf);  // the last rows once more
                    Rows rows{w.weight + start * s.in, w.delta + start * s.in, step};
                    if (copied) {
                        for (int r = 0; r < kHalf; ++r) {
                            const Size from = std::min<Size>(r, count - 1) * s.in;
                            std::copy_n(rows.weight + from, s.in, copies.at + r * step);
                            std::copy_n(rows.delta + from, s.in, copies.at + (kHalf + r) * step);
                        }
                        rows = {copies.at, copies.at + kHalf * step, step};
                    }
                    for (Size lane = 0; lane < here; lane += kGroup) {
                        const int vectors = here - lane > kFloats ? 2 : 1;
                        Floats sum[kBoth][kVectors];
                        const float* panel = panels.at + lane * s.in;
                        vectors == 2 ? multiply<2>(s.in, rows, panel, sum) : multiply<1>(s.in, rows, panel, sum);
                        for (Size c = neuron; c < neuron + count; ++c) {
                            const Split<float> of = splits.template at<false>(c);
                            const float b = w.bias ? w.bias[c] : 0, db = w.delta_bias ? w.delta_bias[c] : 0;
                            for (int v = 0; v < vectors; ++v) {
                                const Floats a = sum[c - start][v] + b, d = sum[kHalf + c - start][v] + db;
                                const Size at = lane + v * kFloats;
                                store_lanes(out.at + c * most + at, half_sum<A>(of, a, d));
                                if (!z) continue;
                                store_lanes(kept.at + c * most + at, a);
                                store_lanes(kept.at + (s.out + c) * most + at, d);
                            }
                        }
                    }
                }
#pragma omp for schedule(static)
                for (Size lane = 0; lane < here; lane += kGroup) {
                    const Size used = std::min<Size>(kGroup, here - lane);
                    turn(out.at + lane, most, s.out, used, y + (first + lane) * s.out, s.out);
                    if (z) turn(kept.at + lane, most, 2 * s.out, used, z + (first + lane) * 2 * s.out, 2 * s.out);
                }
            }
        }
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include "firefly_bindings.hpp"

PCL_EVERY_ISA(void firefly_linear(const FireflyLinear& s, const float* x, const FireflyWeights& w, const Firefly& f,
                                  float* y, float* z);)

namespace pcl {

void register_firefly_linear(nanobind::module_& m) {
    // shape: samples, in, out; of: x, W, Δ, b, β
    m.def("firefly_linear", [](const std::array<Size, 3>& shape, const FireflyOperands& of, const FireflyVectors& vectors,
                               int activation, Address y, Address z, int threads) {
        nanobind::gil_scoped_release release;
        const auto [samples, in, out] = shape;
        const Firefly f = firefly({samples, out, 1, true, f32, activation}, vectors, {0, 0}, {0, 0}, threads);
        PCL_BEST(firefly_linear)({samples, in, out}, floats(of[0]), weights(of, false), f, floats(y), floats(z));
    });
    // False, and nothing done, where anything is not as usual.
    m.def("firefly_linear_usual", [](const FireflyTensors& tensors, int activation, bool refuse_grad, int threads) {
        UsualLayer u(tensors, refuse_grad, activation);
        if (current_isa() == Isa::baseline) return false;  // for which the library's product is better
        if (!u.read(2) || u.x.dims < 1 || !u.x.contiguous() || !u.y.contiguous()) return false;
        const Size out = u.w.shape[0], in = u.w.shape[1];
        if (u.x.shape[u.x.dims - 1] != in || in < 1) return false;
        const Size samples = u.x.elements() / in;
        if (u.y.elements() != samples * out) return false;
        u.firefly.threads = threads;
        nanobind::gil_scoped_release release;
        PCL_BEST(firefly_linear)({samples, in, out}, u.at(u.x), u.weights, u.firefly, u.at(u.y), nullptr);
        return true;
    });
}

}  // namespace pcl
#endif
