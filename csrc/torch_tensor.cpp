#include "torch_tensor.hpp"

#include <array>

#include "gradients.hpp"

namespace nb = nanobind;

namespace pcl {
namespace {

// DLPack's DLPackExchangeAPI; functions that are not used here have their place only.
struct Exchange {
    std::uint32_t major, minor;
    Exchange* previous;
    void *allocate, *managed_from_python, *managed_to_python;
    int (*view)(void* object, TensorView* to);
    void* current_stream;
};

struct {
    Exchange* exchange = nullptr;
    PyTypeObject *tensor = nullptr, *parameter = nullptr;
    PyGetSetDef* requires_grad = nullptr;
    PyMethodDef* is_neg = nullptr;
} torch;

bool says_yes(PyObject* answer) {
    if (!answer) PyErr_Clear();
    const bool yes = answer != Py_False;  // an error counts as yes, which sends the call the careful way
    Py_XDECREF(answer);
    return yes;
}

}  // namespace

std::int64_t TensorView::elements() const {
    std::int64_t n = 1;
    for (int a = 0; a < dims; ++a) n *= shape[a];
    return n;
}

int TensorView::dtype() const {
    if (vector_lanes != 1) return -1;
    if (code == 4 && bits == 16) return bf16;
    if (code != 2) return -1;
    return bits == 32 ? f32 : bits == 64 ? f64 : bits == 16 ? f16 : -1;
}

bool TensorView::contiguous() const {
    std::int64_t expected = 1;
    for (int a = dims; a-- > 0;) {
        if (shape[a] == 0) return true;
        if (shape[a] != 1 && stride[a] != expected) return false;
        expected *= shape[a];
    }
    return true;
}

bool TensorView::dense() const {
    std::array<int, 16> axes;
    if (dims > 16) return false;
    for (int a = 0; a < dims; ++a) axes[a] = a;
    std::sort(axes.begin(), axes.begin() + dims, [&](int a, int b) { return stride[a] < stride[b]; });
    std::int64_t expected = 1;
    for (int i = 0; i < dims; ++i) {
        const int a = axes[i];
        if (shape[a] == 1) continue;
        if (stride[a] != expected) return false;
        expected *= shape[a];
    }
    return true;
}

bool use_torch(nb::handle tensor, nb::handle parameter) {
    torch = {};
    const nb::object table = nb::getattr(tensor, "__dlpack_c_exchange_api__", nb::none());
    if (!PyCapsule_IsValid(table.ptr(), "dlpack_exchange_api")) return false;
    auto* exchange = static_cast<Exchange*>(PyCapsule_GetPointer(table.ptr(), "dlpack_exchange_api"));
    while (exchange && exchange->major != 1) exchange = exchange->previous;
    if (!exchange || !exchange->view) return false;

    // The C functions behind two of a tensor's attributes, called without looking these up each time.
    PyTypeObject* type = reinterpret_cast<PyTypeObject*>(tensor.ptr());
    const nb::object requires_grad = tensor.attr("requires_grad"), is_neg = tensor.attr("is_neg");
    if (!Py_IS_TYPE(requires_grad.ptr(), &PyGetSetDescr_Type) || !Py_IS_TYPE(is_neg.ptr(), &PyMethodDescr_Type))
        return false;
    PyMethodDef* method = reinterpret_cast<PyMethodDescrObject*>(is_neg.ptr())->d_method;
    if (method->ml_flags != METH_NOARGS) return false;

    torch = {exchange, type, reinterpret_cast<PyTypeObject*>(parameter.ptr()),
             reinterpret_cast<PyGetSetDescrObject*>(requires_grad.ptr())->d_getset, method};
    return true;
}

bool is_tensor(PyObject* object) { return Py_TYPE(object) == torch.tensor || Py_TYPE(object) == torch.parameter; }

bool view(PyObject* object, bool refuse_grad, TensorView& to) {
    if (!is_tensor(object)) return false;
    if (torch.exchange->view(object, &to)) {
        PyErr_Clear();  // sparse, on a device that DLPack does not know, ...
        return false;
    }
    if (to.device_type != 1 || to.dtype() < 0) return false;
    return !refuse_grad || !says_yes(torch.requires_grad->get(object, torch.requires_grad->closure));
}

bool holds_values(PyObject* object, const TensorView& t) {
    const std::int64_t n = t.elements();
    if (n > 0 && !t.data) return false;  // a tensor of zeros without memory, as forward-mode autograd makes them
    // The imaginary part of a conjugate is a view of the negative. Its elements lie two apart, so several elements
    // in a row need not be asked.
    return (n > 1 && t.contiguous()) || !negated(object);
}

bool negated(PyObject* object) { return says_yes(torch.is_neg->ml_meth(object, nullptr)); }

}  // namespace pcl
