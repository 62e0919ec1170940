// The tensors of a layer with split neurons read in one go, where all are as nearly always: ordinary CPU tensors of
// matching shapes. Everything else is left to pcl_kernels/firefly_split, which says what is wrong or makes copies.
#pragma once

#include <nanobind/nanobind.h>

#include <array>
#include <vector>

#include "firefly_layers.hpp"
#include "gradients.hpp"
#include "torch_tensor.hpp"

namespace pcl {

using FireflyTensors = std::array<nanobind::handle, 10>;  // x, W, Δ, b, β, ε, s, t, mirror, y

struct UsualLayer {
    TensorView x, w, y;
    FireflyWeights weights{};
    Firefly firefly{};

    UsualLayer(const FireflyTensors& tensors, bool refuse_grad, int activation)
        : tensors_(tensors), refuse_grad_(refuse_grad) {
        firefly.activation = activation, firefly.dtype = f32;
    }

    // Whether all but x and y fit a weight of `dims` axes, and x and y are float32.
    bool read(int dims) {
        TensorView d;
        if (!floats(0, x) || !floats(1, w) || !floats(2, d) || !floats(9, y)) return false;
        if (w.dims != dims || !d.same_shape(w)) return false;
        firefly.channels = w.shape[0];
        const bool rows = w.contiguous() && d.contiguous();
        weights.channels_last = !rows && channels_last(w) && channels_last(d);
        weights.weight = at(w), weights.delta = at(d);
        return (rows || weights.channels_last) && bias(3, weights.bias) && bias(4, weights.delta_bias) &&
               !tensors_[5].is_none() && vector(5, firefly.epsilon) && vector(6, firefly.scale) &&
               vector(7, firefly.shift) && vector(8, firefly.mirror);
    }

    static float* at(const TensorView& t) { return reinterpret_cast<float*>(t.begin()); }

    // (n, c, h, w), where the channels of a position lie side by side.
    static bool channels_last(const TensorView& t) {
        if (t.dims != 4) return false;
        const std::int64_t c = t.shape[1], w = t.shape[3] * c, h = t.shape[2] * w;
        return (c == 1 || t.stride[1] == 1) && (t.shape[3] == 1 || t.stride[3] == c) &&
               (t.shape[2] == 1 || t.stride[2] == w) && (t.shape[0] == 1 || t.stride[0] == h);
    }

  private:
    FireflyTensors tensors_;
    bool refuse_grad_;
    std::array<std::vector<double>, 4> room_;

    bool seen(int i, TensorView& t) const {
        PyObject* object = tensors_[i].ptr();
        return view(object, refuse_grad_, t) && holds_values(object, t);
    }
    bool floats(int i, TensorView& t) const { return seen(i, t) && t.dtype() == f32; }
    bool of_neurons(const TensorView& t) const {
        return t.dims == 1 && t.shape[0] == firefly.channels && t.contiguous();
    }
    bool bias(int i, const float*& to) const {
        if (tensors_[i].is_none()) return true;
        TensorView t;
        if (!floats(i, t) || !of_neurons(t)) return false;
        to = at(t);
        return true;
    }
    bool vector(int i, const double*& to) {
        if (tensors_[i].is_none()) return true;
        TensorView t;
        if (!seen(i, t) || !of_neurons(t) || (t.dtype() != f32 && t.dtype() != f64)) return false;
        auto& room = room_[i - 5];
        const auto copy = [&](auto* from) { room.assign(from, from + firefly.channels); };
        t.dtype() == f32 ? copy(at(t)) : copy(reinterpret_cast<const double*>(t.begin()));
        to = room.data();
        return true;
    }
};

}  // namespace pcl
