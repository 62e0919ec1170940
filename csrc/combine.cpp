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
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

PCL_EVERY_ISA(void combine(const Gradients& g, const double* weights, const std::uintptr_t* out, bool accumulate,
                           int threads);)

namespace pcl {

void register_combine(pybind11::module_& m) {
    m.def("combine", [](int tasks, std::vector<std::uintptr_t> address, const std::vector<std::int64_t>& size,
                        std::vector<int> dtype, const std::vector<double>& weights,
                        const std::vector<std::uintptr_t>& out, bool accumulate, int threads) {
        const Gradients g(tasks, std::move(address), size, std::move(dtype));
        pybind11::gil_scoped_release release;
        PCL_BEST(combine)(g, weights.data(), out.data(), accumulate, threads);
    });
}

}  // namespace pcl
#endif
