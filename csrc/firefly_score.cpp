// The integrated gradient of every neuron's step (pcl_kernels/firefly_score/op.py): all points in one pass.
#include "firefly_lanes.hpp"
#include "isa.hpp"

namespace pcl::PCL_ISA {

// score = s / (2n) Σ g d Σ_z (act'(u+) + mirror act'(u-)), u± = s (a ± c_z ε d) + t with c_z = (2z - 1) / (2n)
void firefly_score(const Firefly& f, const FireflyTensor& grad, int points, double* score) {
    with_kind(f, [&](auto activation, auto rows, auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        using S = typename Compute<T>::type;
        using A = decltype(activation);
        constexpr bool kRows = decltype(rows)::value;
        const Splits<S> splits(f);
        const Operand<const T> a(f.a), d(f.d), g(grad);
        std::vector<S> share(points);
        for (int z = 0; z < points; ++z) share[z] = static_cast<S>((2 * z + 1) / (2.0 * points));
        const auto sums = sums_of_tasks(f, 1, [&](Size task, double* of_task) {
            WideSum<S> sum;
            const auto visit = [&](const Split<S>& of, Size block, Size i, int width) {
                const Scan<S> base = of.scale * load_part(a.in(block) + i, width) + of.shift;
                const Scan<S> along = load_part(d.in(block) + i, width);
                const Scan<S> plus = of.plus * along, minus = of.minus * along;
                Scan<S> slopes = {};
                for (const S c : share)
                    slopes += A::slope(base + splat(c) * plus) + of.mirror * A::slope(base + splat(c) * minus);
                sum.add(load_part(g.in(block) + i, width) * along * slopes);
            };
            walk_task<kRows>(f, splits, task, visit, [&](Size c, int width) { flush<kRows>(sum, of_task + c, width); });
        });
        for (Size c = 0; c < f.channels; ++c) score[c] = (f.scale ? f.scale[c] : 1) / (2.0 * points) * sums[c];
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include "firefly_bindings.hpp"

PCL_EVERY_ISA(void firefly_score(const Firefly& f, const FireflyTensor& grad, int points, double* score);)

namespace pcl {

void register_firefly_score(nanobind::module_& m) {
    m.def("firefly_score", [](const FireflySizes& sizes, const FireflyVectors& vectors, FireflyPair a, FireflyPair d,
                              FireflyPair grad, int points, std::uintptr_t score, int threads) {
        nanobind::gil_scoped_release release;
        PCL_BEST(firefly_score)(firefly(sizes, vectors, a, d, threads), tensor(grad), points,
                                reinterpret_cast<double*>(score));
    });
}

}  // namespace pcl
#endif
