// A warp, and what stands in for it where a C++ compiler builds the same code for the processor.
//
// Device code here keeps its vectors in memory that all lanes see; lane l owns the elements l, l + LANES, ... and
// `sync` stands between an access by one lane and a conflicting one by another. Without a GPU a warp has one lane and
// the code is an ordinary loop; a header named in PCL_WARP may put something else in its place (the tests: threads).
// The ops whose CPU form is this code too include it once per instruction set, each time in another namespace.
#pragma once

#include "../double_double.hpp"

#ifdef __CUDACC__
#define PCL_DEVICE __device__ __forceinline__
#else
#define PCL_DEVICE inline
#endif

#ifdef PCL_ISA
#define PCL_WARP_NAMESPACE pcl::PCL_ISA::warp
#else
#define PCL_WARP_NAMESPACE pcl::warp
#endif

#ifdef PCL_WARP
#include PCL_WARP
#endif

namespace PCL_WARP_NAMESPACE {

#ifdef __CUDACC__
constexpr int LANES = 32;
constexpr unsigned ALL = 0xffffffffu;

PCL_DEVICE int lane() { return threadIdx.x % LANES; }
PCL_DEVICE void sync() { __syncwarp(ALL); }
PCL_DEVICE double from(double a, int offset) { return __shfl_xor_sync(ALL, a, offset); }
PCL_DEVICE int from(int a, int offset) { return __shfl_xor_sync(ALL, a, offset); }
#elif !defined(PCL_WARP)
constexpr int LANES = 1;

PCL_DEVICE int lane() { return 0; }
PCL_DEVICE void sync() {}
PCL_DEVICE double from(double a, int) { return a; }
PCL_DEVICE int from(int a, int) { return a; }
#endif

PCL_DEVICE DoubleDouble from(DoubleDouble a, int offset) { return {from(a.hi, offset), from(a.lo, offset)}; }

// The sum over the lanes, the same in every lane: additions commute, so both partners of an exchange agree.
template <class T>
PCL_DEVICE T sum(T a) {
    for (int offset = LANES / 2; offset; offset /= 2) a = a + from(a, offset);
    return a;
}

PCL_DEVICE double max(double a) {
    for (int offset = LANES / 2; offset; offset /= 2) {
        const double other = from(a, offset);
        a = a < other ? other : a;
    }
    return a;
}

// The smallest value over the lanes and the lowest index that has it, the same in every lane.
template <class T>
PCL_DEVICE void argmin(T& value, int& index) {
    for (int offset = LANES / 2; offset; offset /= 2) {
        const T other = from(value, offset);
        const int at = from(index, offset);
        if (other < value || (!(value < other) && at < index)) value = other, index = at;
    }
}

}  // namespace PCL_WARP_NAMESPACE
