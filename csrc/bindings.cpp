// The Python module `pcl_kernels._C`: one line per op, and the facts of the build.
// Ops take addresses or Operands; what is not as usual pcl_kernels/<op>/op.py checks before it calls.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "isa.hpp"

namespace py = pybind11;

namespace pcl {

void register_combine(py::module_& m);
void register_cuda(py::module_& m);
void register_combine_update(py::module_& m);
void register_gramian(py::module_& m);
void register_read_bytes(py::module_& m);
void register_multiply_adds(py::module_& m);
void register_cagrad_dual(py::module_& m);
void register_channel_affine(py::module_& m);
void register_cone_qp(py::module_& m);
void register_elastic_factors(py::module_& m);
void register_firefly_apply(py::module_& m);
void register_firefly_conv(py::module_& m);
void register_firefly_linear(py::module_& m);
void register_firefly_score(py::module_& m);
void register_firefly_select(py::module_& m);
void register_firefly_split(py::module_& m);
void register_ghost_gramian(py::module_& m);
void register_imtl_g(py::module_& m);
void register_logit_distance(py::module_& m);
void register_maxdo(py::module_& m);
void register_longhorn_scan(py::module_& m);
void register_mlp(py::module_& m);
void register_nash_mtl(py::module_& m);
void register_pcgrad(py::module_& m);
void register_random_orders(py::module_& m);
void register_sample_conv(py::module_& m);
void register_operands(py::module_& m);
void register_semidefinite_solve(py::module_& m);
void register_simplex_qp(py::module_& m);

namespace {

const std::vector<std::string> isa_names = {"baseline", "avx2", "avx512"};

void register_build_facts(py::module_& m) {
    m.attr("BUILD") = py::dict(
        py::arg("compiler") = PCL_BUILD_COMPILER, py::arg("flags") = PCL_BUILD_FLAGS,
        py::arg("isas") = PCL_BUILD_ISAS, py::arg("cuda") = PCL_BUILD_CUDA, py::arg("openmp") = _OPENMP);
    m.def("isa", [] { return isa_names[static_cast<int>(current_isa())]; });
    m.def("isas", [] {
        return std::vector<std::string>(isa_names.begin(), isa_names.begin() + static_cast<int>(best_isa()) + 1);
    });
    m.def("use_isa", [](const std::string& name) {
        for (size_t i = 0; i < isa_names.size(); ++i)
            if (isa_names[i] == name && use_isa(static_cast<Isa>(i))) return;
        throw std::invalid_argument("isa: expected one of isas(), got '" + name + "'");
    });
}

}  // namespace
}  // namespace pcl

#ifdef PCL_WITH_CUDA
extern "C" int pcl_cuda_device_count();
#else
static int pcl_cuda_device_count() { return 0; }
#endif

PYBIND11_MODULE(_C, m) {
    m.doc() = "Compiled kernels of pcl_kernels on raw addresses. Not for direct use.";
    pcl::register_build_facts(m);
    m.def("cuda_device_count", &pcl_cuda_device_count);
    pcl::register_operands(m);
    pcl::register_combine(m);
    pcl::register_cuda(m);
    pcl::register_combine_update(m);
    pcl::register_gramian(m);
    pcl::register_read_bytes(m);
    pcl::register_multiply_adds(m);
    pcl::register_cagrad_dual(m);
    pcl::register_channel_affine(m);
    pcl::register_cone_qp(m);
    pcl::register_elastic_factors(m);
    pcl::register_firefly_apply(m);
    pcl::register_firefly_conv(m);
    pcl::register_firefly_linear(m);
    pcl::register_firefly_score(m);
    pcl::register_firefly_select(m);
    pcl::register_firefly_split(m);
    pcl::register_ghost_gramian(m);
    pcl::register_imtl_g(m);
    pcl::register_logit_distance(m);
    pcl::register_maxdo(m);
    pcl::register_longhorn_scan(m);
    pcl::register_mlp(m);
    pcl::register_nash_mtl(m);
    pcl::register_pcgrad(m);
    pcl::register_random_orders(m);
    pcl::register_sample_conv(m);
    pcl::register_semidefinite_solve(m);
    pcl::register_simplex_qp(m);
}
