// The distance of logits under sanitizers. Numbers are whole and counts powers of two, so that nothing is rounded.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../isa.hpp"

namespace pcl {
using Size = std::int64_t;
}

PCL_EVERY_ISA(void logit_distance(Size rows, Size columns, Size stored, const float* now, const float* then,
                                  double factor, bool ignored, float* loss, float* slopes);)

namespace {

using namespace pcl;

long one(Size rows, Size columns, Size known, bool ignored) {
    std::vector<float> now(rows * columns, 3.0f), then(rows * known, 1.0f), slopes(rows * columns);
    for (Size b = 0; b < rows && known > 1; ++b) then[b * known] = NAN;
    float loss = 0;
    PCL_BEST(logit_distance)(rows, columns, known, now.data(), then.data(), 2.0, ignored, &loss, slopes.data());
    bool right = rows ? loss == 8.0f : std::isnan(loss);
    for (Size b = 0; b < rows; ++b)
        for (Size c = 0; c < columns; ++c) {
            const Size compared = ignored ? known - (known > 1) : columns;
            const bool counts = !ignored || (c < known && !(known > 1 && c == 0));
            right = right && std::abs(slopes[b * columns + c] - (counts ? 8.0f / (rows * compared) : 0.0f)) < 1e-6f;
        }
    if (!right) {
        std::printf("wrong result: logit_distance, instruction set %d\n", int(current_isa()));
        std::exit(1);
    }
    return 1;
}

}  // namespace

// Returns how many results it has compared.
long logit_ops() {
    long calls = 0;
    for (const bool ignored : {false, true})
        calls += one(1, 1, 1, ignored) + one(8, 65, 33, ignored) + one(16, 16, 16, ignored) + one(0, 3, 2, ignored);
    return calls;
}
