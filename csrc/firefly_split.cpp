// Both halves of split neurons and their gradients (pcl_kernels/firefly_split/op.py), every number read once.
#include "firefly_lanes.hpp"
#include "isa.hpp"

namespace pcl::PCL_ISA {

// y = (act(u+) + act(u-)) / 2 for all numbers
void firefly_split(const Firefly& f, const FireflyTensor& out) {
    with_kind(f, [&](auto activation, auto rows, auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        using S = typename Compute<T>::type;
        using A = decltype(activation);
        const Splits<S> splits(f);
        const Operand<const T> a(f.a), d(f.d);
        const Operand<T> y(out);
        every_task(f, [&](Size task) {
            const auto visit = [&](const Split<S>& of, Size block, Size i, int width) {
                const Scan<S> at_a = load_part(a.in(block) + i, width), at_d = load_part(d.in(block) + i, width);
                store_part(y.in(block) + i, half_sum<A>(of, at_a, at_d), width);
            };
            walk_task<decltype(rows)::value>(f, splits, task, visit, [](Size, int) {});
        });
    });
}

// With g± = g/2 act'(u±): da = s (g+ + g-), dd = s ε (g+ + mirror g-), and in sums[3][m] the gradients of ε, s and t,
// which are s D, Σ a (g+ + g-) + ε D and Σ (g+ + g-), D = Σ d (g+ + mirror g-).
void firefly_split_backward(const Firefly& f, const FireflyTensor& grad, const FireflyTensor& da,
                            const FireflyTensor& dd, double* sums) {
    with_kind(f, [&](auto activation, auto rows, auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        using S = typename Compute<T>::type;
        using A = decltype(activation);
        constexpr bool kRows = decltype(rows)::value;
        const Splits<S> splits(f);
        const Operand<const T> a(f.a), d(f.d), g(grad);
        const Operand<T> to_a(da), to_d(dd);
        const Size m = f.channels;
        const auto found = sums_of_tasks(f, 3, [&](Size task, double* of_task) {
            WideSum<S> of_d, of_a, of_u;
            const auto visit = [&](const Split<S>& of, Size block, Size i, int width) {
                const Scan<S> at_a = load_part(a.in(block) + i, width), at_d = load_part(d.in(block) + i, width);
                const Scan<S> half = load_part(g.in(block) + i, width) * all<Scan<S>>(0.5);
                const Scan<S> base = of.scale * at_a + of.shift;
                const Scan<S> up = half * A::slope(base + of.plus * at_d);
                const Scan<S> down = half * A::slope(base + of.minus * at_d);
                const Scan<S> along_a = up + down, along_d = up + of.mirror * down;
                store_part(to_a.in(block) + i, of.scale * along_a, width);
                store_part(to_d.in(block) + i, of.plus * along_d, width);
                of_d.add(along_d * at_d), of_a.add(along_a * at_a), of_u.add(along_a);
            };
            walk_task<kRows>(f, splits, task, visit, [&](Size c, int width) {
                flush<kRows>(of_d, of_task + c, width);
                flush<kRows>(of_a, of_task + m + c, width);
                flush<kRows>(of_u, of_task + 2 * m + c, width);
            });
        });
        for (Size c = 0; c < m; ++c) {
            sums[c] = (f.scale ? f.scale[c] : 1) * found[c];
            sums[m + c] = found[m + c] + f.epsilon[c] * found[c];
            sums[2 * m + c] = found[2 * m + c];
        }
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include "firefly_bindings.hpp"

PCL_EVERY_ISA(void firefly_split(const Firefly& f, const FireflyTensor& out);
              void firefly_split_backward(const Firefly& f, const FireflyTensor& grad, const FireflyTensor& da,
                                          const FireflyTensor& dd, double* sums);)

namespace pcl {

void register_firefly_split(nanobind::module_& m) {
    m.def("firefly_split", [](const FireflySizes& sizes, const FireflyVectors& vectors, FireflyPair a, FireflyPair d,
                              FireflyPair out, int threads) {
        nanobind::gil_scoped_release release;
        PCL_BEST(firefly_split)(firefly(sizes, vectors, a, d, threads), tensor(out));
    });
    m.def("firefly_split_backward",
          [](const FireflySizes& sizes, const FireflyVectors& vectors, FireflyPair a, FireflyPair d, FireflyPair grad,
             FireflyPair da, FireflyPair dd, std::uintptr_t sums, int threads) {
              nanobind::gil_scoped_release release;
              PCL_BEST(firefly_split_backward)(firefly(sizes, vectors, a, d, threads), tensor(grad), tensor(da),
                                               tensor(dd), reinterpret_cast<double*>(sums));
          });
}

}  // namespace pcl
#endif
