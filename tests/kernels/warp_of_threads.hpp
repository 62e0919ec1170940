// A warp whose lanes are threads, so that a thread sanitizer sees every access that lacks a `sync`.
#pragma once

#include <pthread.h>

namespace pcl::warp {

constexpr int LANES = 4;

struct Warp {
    pthread_barrier_t barrier;
    double doubles[LANES];
    int ints[LANES];
};

inline Warp* the_warp = nullptr;
inline thread_local int this_lane = 0;

inline int lane() { return this_lane; }
inline void sync() { pthread_barrier_wait(&the_warp->barrier); }

template <class T>
T exchange(T* slots, T a, int offset) {
    slots[this_lane] = a;
    sync();
    const T other = slots[this_lane ^ offset];
    sync();
    return other;
}

inline double from(double a, int offset) { return exchange(the_warp->doubles, a, offset); }
inline int from(int a, int offset) { return exchange(the_warp->ints, a, offset); }

}  // namespace pcl::warp
