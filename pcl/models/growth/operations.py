"""Operations that treat every channel by itself, by type of module or by name of the function."""

from torch import fx, nn

#: modules that act on every number by itself (dropout is off while candidates are compared)
POINTWISE_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid),
    *(nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink),
    *(nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout),
)
#: functions and methods of torch, and operators of Python, of which the same is true
POINTWISE = {
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "tanh", "sigmoid", "softplus"),
    *("softsign", "hardtanh", "hardswish", "hardsigmoid", "logsigmoid", "dropout", "dropout2d", "exp", "expm1", "log"),
    *("log1p", "sqrt", "rsqrt", "square", "abs", "neg", "sin", "cos", "erf", "reciprocal", "pow", "clamp", "clone"),
    *("contiguous", "detach", "float", "double", "to"),
}
#: between two tensors, or a tensor and a number
ARITHMETIC = {
    *("add", "sub", "mul", "truediv", "div", "maximum", "minimum", "iadd", "isub", "imul", "itruediv"),
    *("radd", "rsub", "rmul", "rtruediv"),
}
POOLING_MODULES = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
POOLING = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
RESHAPES = {"flatten", "view", "reshape"}
REDUCTIONS = {"mean", "sum", "amax", "amin"}


def name_of(node: fx.Node) -> str:
    """What a node calls: "relu" for torch.relu, F.relu and the methods relu and relu_; "" for a user's own function."""
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    module = getattr(node.target, "__module__", None) or "torch"
    known = node.op == "call_function" and module.split(".")[0] in ("torch", "_operator", "math", "builtins")
    return str(getattr(node.target, "__name__", "")).rstrip("_") if known else ""
