// Reads the arguments of a call in one go where they are as nearly always: ordinary CPU tensors, in one memory order
// for each parameter. Everything else, bad arguments too, is left to pcl_kernels/_gradients.py, which says what is
// wrong or makes copies. So this file decides nothing but "as usual" or "not as usual".
#include "operands.hpp"

#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>

namespace nb = nanobind;

namespace pcl {
namespace {

// The items of a list or tuple, borrowed.
struct Items {
    PyObject** begin = nullptr;
    Py_ssize_t size = -1;

    explicit Items(PyObject* object) {
        if (PyList_CheckExact(object) || PyTuple_CheckExact(object)) {
            begin = PySequence_Fast_ITEMS(object);
            size = PySequence_Fast_GET_SIZE(object);
        }
    }
    explicit operator bool() const { return size >= 0; }
    PyObject* operator[](Py_ssize_t i) const { return begin[i]; }
};

class Reader {
  public:
    Reader(int tasks, bool listed, std::size_t written, bool refuse_grad, bool refuse_grad_written)
        : tasks_(tasks), listed_(listed), refuse_grad_(refuse_grad), refuse_grad_written_(refuse_grad_written),
          written_(written) {
        address_.reserve(tasks);
    }

    // One parameter: gradient(i) of every task and written(l) of every list.
    template <class Gradient, class Written>
    bool parameter(Gradient&& gradient, Written&& written) {
        present_ = false;
        alike_ = contiguous_ = true;
        in_a_row_ = false;
        for (int i = 0; i < tasks_; ++i) {
            PyObject* object = gradient(i);
            std::uintptr_t at = 0;
            if ((object != Py_None || !listed_) && !add(object, refuse_grad_, at)) return false;
            address_.push_back(at);
        }
        if (!present_ && !written_.empty()) return false;
        for (std::size_t l = 0; l < written_.size(); ++l) {
            std::uintptr_t at = 0;
            if (!add(written(l), refuse_grad_written_, at)) return false;
            written_[l].push_back(at);
        }
        size_.push_back(present_ ? first_.elements() : 0);
        dtype_.push_back(present_ ? first_.dtype() : f32);
        return contiguous_ || (alike_ && first_.dense());
    }

    // The rows of a (k, m) tensor as the gradients of one parameter.
    bool rows(const TensorView& matrix, PyObject* written) {
        const std::int64_t k = matrix.shape[0], m = matrix.shape[1];
        if (k < 1 || (m > 1 && matrix.stride[1] != 1)) return false;
        const std::int64_t pitch = matrix.stride[0] * dtype_bytes[matrix.dtype()];
        for (std::int64_t i = 0; i < k; ++i)
            address_.push_back(reinterpret_cast<std::uintptr_t>(matrix.begin()) + i * pitch);
        for (Addresses& list : written_) {
            TensorView to;
            if (!view(written, refuse_grad_written_, to) || !holds_values(written, to) || !to.contiguous()) return false;
            if (to.dtype() != matrix.dtype() || to.dims != 1 || to.shape[0] != m) return false;
            list.push_back(reinterpret_cast<std::uintptr_t>(to.begin()));
        }
        size_.push_back(m);
        dtype_.push_back(matrix.dtype());
        return true;
    }

    std::unique_ptr<Operands> result() {
        return std::make_unique<Operands>(
            Operands{Gradients(tasks_, std::move(address_), size_, std::move(dtype_)), std::move(written_), listed_});
    }

  private:
    bool add(PyObject* object, bool refuse_grad, std::uintptr_t& at) {
        TensorView t;
        if (!view(object, refuse_grad, t)) return false;
        if (present_ && !(t.same_dtype(first_) && t.same_shape(first_))) return false;
        const bool like_first = present_ && t.same_strides(first_);
        if (!(like_first && in_a_row_ && t.data)) {
            if (!holds_values(object, t)) return false;
            const bool contiguous = t.contiguous();
            if (!present_) {
                first_ = t;
                present_ = true;
                in_a_row_ = contiguous && t.elements() > 1;
            } else {
                alike_ = alike_ && like_first;
            }
            contiguous_ = contiguous_ && contiguous;
        }
        at = reinterpret_cast<std::uintptr_t>(t.begin());
        return true;
    }

    int tasks_;
    bool listed_, refuse_grad_, refuse_grad_written_;
    std::vector<std::uintptr_t> address_;
    std::vector<std::int64_t> size_;
    std::vector<int> dtype_;
    std::vector<Addresses> written_;

    // of the parameter being read
    TensorView first_{};        // its first tensor, once present
    bool present_ = false;
    bool in_a_row_ = false;     // the first holds several elements, row-major, so that others like it do so too
    bool alike_ = true;         // all have the strides of the first
    bool contiguous_ = true;    // all are row-major
};

// grads in one of the three forms of `gramian`; written: a tuple, for each list a tensor or a list of tensors, in the
// form of one task's gradients. Null where anything is not as usual.
std::unique_ptr<Operands> read(const Given& grads, const nb::tuple& written, bool refuse_grad, bool refuse_grad_written) {
    const Items lists(written.ptr());
    const auto count = static_cast<std::size_t>(lists.size);
    const auto reader = [&](Py_ssize_t tasks, bool listed) {
        return Reader(static_cast<int>(tasks), listed, count, refuse_grad, refuse_grad_written);
    };
    const auto flat = [&](std::size_t l) {  // the tensor itself, or a list with it alone
        const Items items(lists[l]);
        return items && items.size == 1 ? items[0] : lists[l];
    };
    if (!grads) return nullptr;
    if (is_tensor(grads->ptr())) {
        TensorView matrix;
        if (!view(grads->ptr(), refuse_grad, matrix) || matrix.dims != 2 || count > 1) return nullptr;
        if (!holds_values(grads->ptr(), matrix)) return nullptr;
        Reader r = reader(matrix.shape[0], false);
        return r.rows(matrix, count ? flat(0) : nullptr) ? r.result() : nullptr;
    }
    const Items tasks(grads->ptr());
    if (!tasks || tasks.size < 1) return nullptr;
    const bool listed = !is_tensor(tasks[0]);
    Reader r = reader(tasks.size, listed);
    if (!listed)
        return r.parameter([&](int i) { return tasks[i]; }, flat) ? r.result() : nullptr;

    const Py_ssize_t parameters = Items(tasks[0]).size;
    for (Py_ssize_t i = 0; i < tasks.size; ++i)
        if (Items(tasks[i]).size != parameters || parameters < 0) return nullptr;
    for (std::size_t l = 0; l < count; ++l)
        if (Items(lists[l]).size != parameters) return nullptr;
    for (Py_ssize_t p = 0; p < parameters; ++p)
        if (!r.parameter([&](int i) { return Items(tasks[i])[p]; }, [&](std::size_t l) { return Items(lists[l])[p]; }))
            return nullptr;
    return r.result();
}

}  // namespace

std::optional<std::vector<double>> read_weights(const Given& weights, int tasks) {
    if (!weights) return std::nullopt;
    std::vector<double> values;
    values.reserve(tasks);
    TensorView t;
    if (is_tensor(weights->ptr())) {
        if (!view(weights->ptr(), false, t) || t.dims != 1 || t.shape[0] != tasks) return std::nullopt;
        if (!holds_values(weights->ptr(), t)) return std::nullopt;
        for (int i = 0; i < tasks; ++i) {
            const char* at = t.begin() + i * t.stride[0] * dtype_bytes[t.dtype()];
            if (t.dtype() == f64)
                values.push_back(*reinterpret_cast<const double*>(at));
            else if (t.dtype() == f32)
                values.push_back(*reinterpret_cast<const float*>(at));
            else
                return std::nullopt;
        }
        return values;
    }
    const Items items(weights->ptr());
    if (!items || items.size != tasks) return std::nullopt;
    for (int i = 0; i < tasks; ++i) {
        if (!PyFloat_CheckExact(items[i])) return std::nullopt;
        values.push_back(PyFloat_AS_DOUBLE(items[i]));
    }
    return values;
}

void register_operands(nb::module_& m) {
    nb::class_<Operands>(m, "Operands")
        .def("__init__", [](Operands* to, int tasks, std::vector<std::uintptr_t> address,
                            const std::vector<std::int64_t>& size, std::vector<int> dtype,
                            std::vector<Addresses> written) {
            Gradients gradients(tasks, std::move(address), size, std::move(dtype));
            new (to) Operands{std::move(gradients), std::move(written), true};
        })
        .def_prop_ro("tasks", [](const Operands& o) { return o.gradients.tasks; })
        .def_prop_ro("listed", [](const Operands& o) { return o.listed; });
    m.def("use_torch", &use_torch);
    m.def("read", &read);
}

}  // namespace pcl
