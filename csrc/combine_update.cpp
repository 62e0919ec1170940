// d = Σ_i w_i g_i and an optimizer's step with it, in one pass: d never reaches memory. Arithmetic in double, every
// parameter and state element rounded once.
#include <cmath>

#include "combine.hpp"
#include "isa.hpp"
#include "optimizers.hpp"

namespace pcl::PCL_ISA {

using Addresses = std::vector<std::uintptr_t>;  // one per parameter

template <class T>
T* at(const Addresses& address, const Piece& piece) {
    return reinterpret_cast<T*>(address[piece.parameter]) + piece.offset;
}

void combine_sgd(const Gradients& g, const double* weights, const Addresses& params, const Addresses& buffers,
                 const Sgd& o, int threads) {
    for_each_combined_block(g, weights, threads, [&](const Piece& piece, auto* type, const double* sum) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* __restrict p = at<T>(params, piece);
        if (o.momentum == 0) {
            for (std::int64_t c = 0; c < piece.size; ++c) {
                const double x = widen(p[c]);
                p[c] = narrow<T>(x - o.lr * (sum[c] + o.weight_decay * x));
            }
            return;
        }
        T* __restrict buffer = at<T>(buffers, piece);
        const double old = o.first_step ? 0 : o.momentum, fresh = o.first_step ? 1 : 1 - o.dampening;
        for (std::int64_t c = 0; c < piece.size; ++c) {
            const double x = widen(p[c]);
            const double d = sum[c] + o.weight_decay * x;
            const double b = (o.first_step ? 0 : old * widen(buffer[c])) + fresh * d;
            buffer[c] = narrow<T>(b);
            p[c] = narrow<T>(x - o.lr * (o.nesterov ? d + o.momentum * b : b));
        }
    });
}

void combine_adamw(const Gradients& g, const double* weights, const Addresses& params, const Addresses& exp_avgs,
                   const Addresses& exp_avg_sqs, const Adam& o, int threads) {
    const double step_size = o.lr / (1 - std::pow(o.beta1, static_cast<double>(o.step)));
    const double root_scale = 1 / std::sqrt(1 - std::pow(o.beta2, static_cast<double>(o.step)));
    const double keep = o.decoupled ? 1 - o.lr * o.weight_decay : 1, penalty = o.decoupled ? 0 : o.weight_decay;
    for_each_combined_block(g, weights, threads, [&](const Piece& piece, auto* type, const double* sum) {
        using T = std::remove_pointer_t<decltype(type)>;
        T* __restrict p = at<T>(params, piece);
        T* __restrict mean = at<T>(exp_avgs, piece);
        T* __restrict square = at<T>(exp_avg_sqs, piece);
        for (std::int64_t c = 0; c < piece.size; ++c) {
            const double x = widen(p[c]);
            const double d = sum[c] + penalty * x;
            const double m = o.beta1 * widen(mean[c]) + (1 - o.beta1) * d;
            const double v = o.beta2 * widen(square[c]) + (1 - o.beta2) * d * d;
            mean[c] = narrow<T>(m);
            square[c] = narrow<T>(v);
            p[c] = narrow<T>(keep * x - step_size * m / (std::sqrt(v) * root_scale + o.eps));
        }
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include "operands.hpp"

PCL_EVERY_ISA(void combine_sgd(const Gradients& g, const double* weights, const std::vector<std::uintptr_t>& params,
                               const std::vector<std::uintptr_t>& buffers, const Sgd& o, int threads);
              void combine_adamw(const Gradients& g, const double* weights,
                                 const std::vector<std::uintptr_t>& params,
                                 const std::vector<std::uintptr_t>& exp_avgs,
                                 const std::vector<std::uintptr_t>& exp_avg_sqs, const Adam& o, int threads);)

namespace pcl {

// False, and nothing done, where the weights are not as usual.
void register_combine_update(nanobind::module_& m) {
    m.def("combine_sgd", [](const Operands& operands, const Given& weights, double lr, double momentum,
                            double dampening, double weight_decay, bool nesterov, bool first_step, int threads) {
        const auto w = read_weights(weights, operands.gradients.tasks);
        if (!w) return false;
        const Sgd o{lr, momentum, dampening, weight_decay, nesterov, first_step};
        const Addresses& params = operands.written[0];
        const Addresses& buffers = operands.written.back();  // unread where there is no momentum
        nanobind::gil_scoped_release release;
        PCL_BEST(combine_sgd)(operands.gradients, w->data(), params, buffers, o, operands.threads(threads));
        return true;
    });
    m.def("combine_adamw", [](const Operands& operands, const Given& weights, std::int64_t step, double lr,
                              double beta1, double beta2, double eps, double weight_decay, bool decoupled,
                              int threads) {
        const auto w = read_weights(weights, operands.gradients.tasks);
        if (!w) return false;
        const Adam o{step, lr, beta1, beta2, eps, weight_decay, decoupled};
        const auto& written = operands.written;  // parameters, first and second moments
        nanobind::gil_scoped_release release;
        PCL_BEST(combine_adamw)(operands.gradients, w->data(), written[0], written[1], written[2], o,
                                operands.threads(threads));
        return true;
    });
}

}  // namespace pcl
#endif
