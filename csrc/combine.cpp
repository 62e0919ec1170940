// d = Σ_i w_i g_i in one pass over the gradients, summed in double and rounded once.
#include "combine.hpp"
#include "isa.hpp"

namespace pcl::PCL_ISA {

// out: one address per parameter, of the gradients' dtype. accumulate: out += d, else out = d.
void combine(const Gradients& g, const double* weights, const std::uintptr_t* out, bool accumulate, int threads) {
    for_each_combined_block(g, weights, threads, [&](const Piece& piece, auto* type, const double* sum) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* __restrict to = reinterpret_cast<T*>(out[piece.parameter]) + piece.offset;
        if (accumulate)
            for (std::int64_t c = 0; c < piece.size; ++c) to[c] = narrow<T>(widen(to[c]) + sum[c]);
        else
            for (std::int64_t c = 0; c < piece.size; ++c) to[c] = narrow<T>(sum[c]);
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include "operands.hpp"

PCL_EVERY_ISA(void combine(const Gradients& g, const double* weights, const std::uintptr_t* out, bool accumulate,
                           int threads);)

namespace pcl {

// False, and nothing done, where the weights are not as usual.
void register_combine(nanobind::module_& m) {
    m.def("combine", [](const Operands& operands, const Given& weights, bool accumulate, int threads) {
        const auto w = read_weights(weights, operands.gradients.tasks);
        if (!w) return false;
        nanobind::gil_scoped_release release;
        PCL_BEST(combine)(operands.gradients, w->data(), operands.written[0].data(), accumulate,
                          operands.threads(threads));
        return true;
    });
}

}  // namespace pcl
#endif
