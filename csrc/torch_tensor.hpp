// A torch tensor as C++ sees it, without torch's headers and without a Python call: through the table of C functions
// that torch publishes at `torch.Tensor.__dlpack_c_exchange_api__` (DLPack 1.2 and later, torch 2.10 and later).
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cstdint>
#include <optional>

namespace pcl {

using Given = std::optional<nanobind::handle>;  // an argument of any kind; nothing for None

// DLPack's DLTensor; the layout is fixed by that standard.
struct TensorView {
    void* data;
    std::int32_t device_type, device;  // 1 is the CPU
    std::int32_t dims;
    std::uint8_t code, bits;
    std::uint16_t vector_lanes;
    std::int64_t *shape, *stride;  // owned by the tensor; in elements
    std::uint64_t byte_offset;

    char* begin() const { return static_cast<char*>(data) + byte_offset; }
    std::int64_t elements() const;
    int dtype() const;        // as in gradients.hpp; -1 for others
    bool contiguous() const;  // row-major
    bool dense() const;       // enumerates memory without gap or overlap, in any order of the axes

    bool same_dtype(const TensorView& t) const {
        return code == t.code && bits == t.bits && vector_lanes == t.vector_lanes;
    }
    bool same_shape(const TensorView& t) const { return dims == t.dims && std::equal(shape, shape + dims, t.shape); }
    bool same_strides(const TensorView& t) const { return std::equal(stride, stride + dims, t.stride); }
};

// Tells whether torch has the table, and keeps it. To be called once, with torch.Tensor and torch.nn.Parameter.
bool use_torch(nanobind::handle tensor, nanobind::handle parameter);

// True where `object` is an ordinary CPU tensor (no subclass but Parameter) of a dtype that the kernels know, and does
// not require grad where that is refused. No Python error is left behind.
bool view(PyObject* object, bool refuse_grad, TensorView& to);

// True where memory holds the values of the viewed tensor themselves; the views of `torch._neg_view` are not looked for.
bool holds_values(PyObject* object, const TensorView& t);

// True where memory holds the negatives of a tensor's values.
bool negated(PyObject* object);

// True for torch.Tensor and Parameter, whatever they hold.
bool is_tensor(PyObject* object);

}  // namespace pcl
