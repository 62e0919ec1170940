// The sizes of a 3 x 3 convolution of stride 1 whose neurons are split.
#pragma once

#include "firefly.hpp"

namespace pcl {

struct FireflyConv {
    Size samples, in, height, width, out, pad_y, pad_x;  // out: neurons, half of the stacked weights' rows
    bool channels_last;

    Size out_height() const { return height + 2 * pad_y - 2; }
    Size out_width() const { return width + 2 * pad_x - 2; }
};

}  // namespace pcl
