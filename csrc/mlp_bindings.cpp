// Python's way to the kernels of mlp.cpp: operands come as addresses, or as tensors that are looked at here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "gradients.hpp"
#include "isa.hpp"
#include "mlp.hpp"
#include "torch_tensor.hpp"

PCL_EVERY_ISA(void mlp_forward(const MlpLayers& of, const float* x, const std::vector<float*>& h, int threads);
              bool softmax_losses(Size columns, const Size* labels, const std::vector<Size>& blocks,
                                  const std::vector<float>& factors, const float* logits, float* losses,
                                  float* of_logits);
              bool mlp_backward(const MlpLayers& of, const float* x, const std::vector<float*>& h, const float* grad,
                                const float* scale, const MlpGradients& to, int lowest, int threads);
              bool mlp_rows(const MlpLayers& of, const float* x, const Size* labels, float* losses, float* dx,
                            int threads);)

namespace pcl {
namespace {

using Address = std::uintptr_t;
using Addresses = std::vector<Address>;

float* floats(Address at) { return reinterpret_cast<float*>(at); }

std::vector<float*> floats(const Addresses& at) {
    std::vector<float*> found;
    for (const Address one : at) found.push_back(floats(one));
    return found;
}

using Items = std::vector<nanobind::object>;

// Those of a sequence; none of anything else.
Items items(const Given& several) {
    if (!several || !PySequence_Check(several->ptr())) return {};
    const auto fast = nanobind::steal(PySequence_Fast(several->ptr(), "a sequence"));
    if (!fast.is_valid()) nanobind::raise_python_error();
    Items found;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fast.ptr()); ++i)
        found.push_back(nanobind::borrow(PySequence_Fast_GET_ITEM(fast.ptr(), i)));
    return found;
}

// Whether the kernels read this tensor where it is, row after row.
bool reads(nanobind::handle tensor, TensorView& t) {
    if (!view(tensor.ptr(), false, t) || t.dtype() != f32 || t.elements() == 0) return false;
    return t.data && t.contiguous() && !negated(tensor.ptr());
}

// The layers, if x, weights, biases and the tensors behind every layer fit together, and the kernels read them where
// they are, x perhaps after a copy. What is None is not looked at; `at` gets where those behind the layers are.
std::optional<MlpLayers> layers_of(const Given& x, const Given& weights, const Given& biases, const Given& behind,
                                   const Given& scale, TensorView& of_x, std::vector<float*>* at = nullptr) {
    if (!x || !view(x->ptr(), false, of_x) || of_x.dims != 2 || of_x.dtype() != f32 || of_x.elements() == 0) return {};
    if (!of_x.data || negated(x->ptr())) return {};
    const Items w = items(weights), b = items(biases), h = items(behind);
    const bool biased = biases.has_value(), known = behind.has_value();
    if (w.empty() || (biased && b.size() != w.size()) || (known && h.size() != w.size())) return {};
    MlpLayers found{of_x.shape[0], {of_x.shape[1]}, {}, std::vector<float*>(w.size()), false};
    TensorView t;
    for (std::size_t l = 0; l < w.size(); ++l) {
        if (!reads(w[l], t) || t.dims != 2 || t.shape[1] != found.widths.back()) return {};
        const Size out = t.shape[0];
        found.widths.push_back(out);
        found.weights.push_back(reinterpret_cast<float*>(t.begin()));
        if (biased && !b[l].is_none()) {
            if (!reads(b[l], t) || t.dims != 1 || t.shape[0] != out) return {};
            found.biases[l] = reinterpret_cast<float*>(t.begin());
        }
        if (known && !(reads(h[l], t) && t.dims == 2 && t.shape[0] == found.rows && t.shape[1] == out)) return {};
        if (known && at) at->push_back(reinterpret_cast<float*>(t.begin()));
    }
    if (scale && !(reads(*scale, t) && t.dims == 1 && t.shape[0] == found.rows)) return {};
    return found;
}

// Of those that a caller may have at most: one for small work.
int threads_for(const MlpLayers& of, int most) {
    Size work = 0;
    for (int l = 0; l <= of.last(); ++l) work += of.widths[l] * of.widths[l + 1];
    return work * std::max<Size>(of.rows, 8) / 8 >= Size{1} << 17 ? most : 1;
}

}  // namespace

void register_mlp(nanobind::module_& m) {
    m.def("mlp_fits", [](const Given& x, const Given& weights, const Given& biases, const Given& behind,
                         const Given& scale) {
        TensorView of_x;
        return layers_of(x, weights, biases, behind, scale, of_x).has_value();
    });
    // losses (rows,), dx like x or null; whether every label is a column, nothing where the operands do not fit
    m.def("mlp_rows", [](const Given& x, const Given& weights, const Given& biases, Address labels, Address losses,
                         Address dx, int threads) -> std::optional<bool> {
        TensorView of_x;
        const auto layers = layers_of(x, weights, biases, {}, {}, of_x);
        if (!layers || !of_x.contiguous()) return {};
        nanobind::gil_scoped_release release;
        const auto rows = PCL_BEST(mlp_rows);
        return rows(*layers, reinterpret_cast<const float*>(of_x.begin()), reinterpret_cast<const Size*>(labels),
                    floats(losses), floats(dx), threads_for(*layers, threads));
    });
    // h: room for the results of every layer, the logits last; gives what mlp_rows gives
    m.def("mlp_losses", [](const Given& x, const Given& weights, const Given& biases, Address labels,
                           const std::vector<Size>& blocks, const std::vector<float>& factors, const Given& h,
                           Address losses, Address of_logits, int threads) -> std::optional<bool> {
        TensorView of_x;
        std::vector<float*> at;
        const auto layers = layers_of(x, weights, biases, h, {}, of_x, &at);
        if (!layers || !of_x.contiguous()) return {};
        nanobind::gil_scoped_release release;
        PCL_BEST(mlp_forward)(*layers, reinterpret_cast<const float*>(of_x.begin()), at, threads_for(*layers, threads));
        const auto losses_of = PCL_BEST(softmax_losses);
        return losses_of(layers->widths.back(), reinterpret_cast<const Size*>(labels), blocks, factors, at.back(),
                         floats(losses), floats(of_logits));
    });
    // h: the results of every layer but the last, then the gradient of the logits; `to` like weights and biases, or None
    // for these themselves. Nothing where the operands do not fit, false where a gradient could be out of range.
    m.def("mlp_descend", [](const Given& x, const Given& weights, const Given& biases, const Given& h,
                            const Given& scale, float rate, const Given& to_weights, const Given& to_biases,
                            int threads) -> std::optional<bool> {
        TensorView of_x, of_scale, again;
        std::vector<float*> at;
        const auto layers = layers_of(x, weights, biases, h, scale, of_x, &at);
        if (!layers || !of_x.contiguous()) return {};
        MlpGradients to{{}, layers->weights, layers->biases, nullptr, rate};
        if (to_weights) {
            const auto there = layers_of(x, to_weights, to_biases, {}, {}, again);
            if (!there || there->widths != layers->widths) return {};
            for (std::size_t l = 0; l < layers->biases.size(); ++l)
                if (!there->biases[l] != !layers->biases[l]) return {};
            to.weights = there->weights, to.biases = there->biases;
        }
        const float* scales = nullptr;
        if (scale && reads(*scale, of_scale)) scales = reinterpret_cast<const float*>(of_scale.begin());
        const float* const of_logits = at.back();
        at.pop_back();
        nanobind::gil_scoped_release release;
        Size wide = 0;
        for (int l = 0; l < layers->last(); ++l) wide += layers->widths[l + 1];
        const std::unique_ptr<float[]> room(new float[layers->rows * wide + 1]);
        float* next = room.get();
        for (int l = 0; l < layers->last(); next += layers->rows * layers->widths[++l]) to.delta.push_back(next);
        return PCL_BEST(mlp_backward)(*layers, reinterpret_cast<const float*>(of_x.begin()), at, of_logits, scales, to, 0,
                                      threads_for(*layers, threads));
    });
    m.def("mlp_forward", [](Size rows, const std::vector<Size>& widths, bool relu_last, Address x, const Addresses& weights,
                            const Addresses& biases, const Addresses& h, int threads) {
        nanobind::gil_scoped_release release;
        const MlpLayers of{rows, widths, floats(weights), floats(biases), relu_last};
        PCL_BEST(mlp_forward)(of, floats(x), floats(h), threads_for(of, threads));
    });
    m.def("softmax_losses", [](Size columns, Address labels, const std::vector<Size>& blocks,
                               const std::vector<float>& factors, Address logits, Address losses, Address of_logits) {
        nanobind::gil_scoped_release release;
        const auto losses_of = PCL_BEST(softmax_losses);
        return losses_of(columns, reinterpret_cast<const Size*>(labels), blocks, factors, floats(logits),
                         floats(losses), floats(of_logits));
    });
    // to: deltas, weights, biases
    m.def("mlp_backward", [](Size rows, const std::vector<Size>& widths, bool relu_last, Address x,
                             const Addresses& weights, const Addresses& h, Address grad,
                             Address scale, const std::array<Addresses, 3>& to, Address dx, int lowest, int threads) {
        nanobind::gil_scoped_release release;
        const MlpGradients found{floats(to[0]), floats(to[1]), floats(to[2]), floats(dx), std::nullopt};
        const MlpLayers of{rows, widths, floats(weights), std::vector<float*>(weights.size()), relu_last};
        const int here = threads_for(of, threads);
        PCL_BEST(mlp_backward)(of, floats(x), floats(h), floats(grad), floats(scale), found, lowest, here);
    });
}

}  // namespace pcl
