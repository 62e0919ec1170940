// The Python module `pcl_kernels._C`: one line per op, and the facts of the build.
// Ops take addresses or Operands; what is not as usual pcl_kernels/<op>/op.py checks before it calls.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "isa.hpp"

namespace nb = nanobind;

namespace pcl {

void register_combine(nb::module_& m);
void register_cuda(nb::module_& m);
void register_combine_update(nb::module_& m);
void register_gramian(nb::module_& m);
void register_read_bytes(nb::module_& m);
void register_multiply_adds(nb::module_& m);
void register_cagrad_dual(nb::module_& m);
void register_channel_affine(nb::module_& m);
void register_cone_qp(nb::module_& m);
void register_elastic_factors(nb::module_& m);
void register_firefly_apply(nb::module_& m);
void register_firefly_conv(nb::module_& m);
void register_firefly_linear(nb::module_& m);
void register_firefly_score(nb::module_& m);
void register_firefly_select(nb::module_& m);
void register_firefly_split(nb::module_& m);
void register_ghost_gramian(nb::module_& m);
void register_imtl_g(nb::module_& m);
void register_logit_distance(nb::module_& m);
void register_maxdo(nb::module_& m);
void register_longhorn_scan(nb::module_& m);
void register_mlp(nb::module_& m);
void register_nash_mtl(nb::module_& m);
void register_pcgrad(nb::module_& m);
void register_random_orders(nb::module_& m);
void register_sample_conv(nb::module_& m);
void register_operands(nb::module_& m);
void register_semidefinite_solve(nb::module_& m);
void register_simplex_qp(nb::module_& m);

namespace {

const std::vector<std::string> isa_names = {"baseline", "avx2", "avx512"};

void register_build_facts(nb::module_& m) {
    nb::dict build;
    build["compiler"] = PCL_BUILD_COMPILER, build["flags"] = PCL_BUILD_FLAGS, build["isas"] = PCL_BUILD_ISAS;
    build["cuda"] = PCL_BUILD_CUDA, build["openmp"] = _OPENMP;
    m.attr("BUILD") = build;
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

NB_MODULE(_C, m) {
    nb::set_leak_warnings(false);  // what a process still holds when it ends is its own affair
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
