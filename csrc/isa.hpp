// One source, several instruction sets.
//
// A file with a `namespace pcl::PCL_ISA` is compiled once per instruction set, each time with other compiler flags
// and with PCL_ISA naming the namespace. The baseline copy also defines PCL_BASELINE and carries what
// exists once, the Python binding. An op file reads:
//
//     namespace pcl::PCL_ISA {
//     void scale(double* x, long n, double a) { ... }             // one copy per instruction set
//     }
//     #ifdef PCL_BASELINE
//     #include <nanobind/nanobind.h>
//     PCL_EVERY_ISA(void scale(double* x, long n, double a);)     // declares all copies
//     namespace pcl {
//     void register_scale(nanobind::module_& m) { ... PCL_BEST(scale)(x, n, a) ... }
//     }
//     #endif
#pragma once

namespace pcl {

enum class Isa { baseline, avx2, avx512 };

Isa best_isa();        // what this processor supports, asked of cpuid once
Isa current_isa();     // what the ops run on: best_isa() unless lowered
bool use_isa(Isa isa); // lower it, for tests; false where it was not built or the processor lacks it

}  // namespace pcl

#if defined(PCL_BUILT_avx512)
#define PCL_EVERY_ISA(...)                          \
    namespace pcl::baseline { __VA_ARGS__ }         \
    namespace pcl::avx2 { __VA_ARGS__ }             \
    namespace pcl::avx512 { __VA_ARGS__ }
#define PCL_BEST(fn)                                                  \
    (pcl::current_isa() == pcl::Isa::avx512 ? &pcl::avx512::fn        \
     : pcl::current_isa() == pcl::Isa::avx2 ? &pcl::avx2::fn          \
                                            : &pcl::baseline::fn)
#else
#define PCL_EVERY_ISA(...) namespace pcl::baseline { __VA_ARGS__ }
#define PCL_BEST(fn) (&pcl::baseline::fn)
#endif
