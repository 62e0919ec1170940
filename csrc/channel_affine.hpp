// The sizes of a batch of samples with channels and positions.
#pragma once

#include <cstdint>

namespace pcl {

using Size = std::int64_t;

// A sample is positions x channels numbers; in channels-last memory the channels lie side by side.
struct Layout {
    Size samples, channels, positions;
    bool channels_last;
};

}  // namespace pcl
