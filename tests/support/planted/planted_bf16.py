"""Bugs for test_planted_bugs.py: bfloat16 in pooling, normalisation and pointwise kernels; their masks."""

POOL_MASK = ("test_pool_bf16.py", "test_mask_is_relu_backward and emulator")
NORM_RELU = ("test_norm_bf16.py", "test_relu_is_relu_backward and emulator")
NORM_Y = ("test_norm_bf16.py", "test_the_gradient_does_not_read_a_rounded_y and emulator")
POINTWISE = ("test_pointwise_bf16.py", "emulator")

#: File, the text that is there, the text in its place, what that plants, the tests, the files to compile,
#: whether slow.
BUGS = [
    (
        "pool/windows.h",
        "output.v[j] <= 0.f",
        "output.v[j] < 0.f",
        "zero lets the gradient pass",
        POOL_MASK,
        ("pool/max_pool2d_backward_3x3_stride2.cu",),
        False,
    ),
    (
        "pool/max_pool2d_backward_3x3_stride2.cu",
        "load_values<4>(mask + out)",
        "load_values<4>(mask + at.c)",
        "the mask of another pixel",
        POOL_MASK,
        (),
        True,
    ),
    (
        "pool/max_pool2d_backward_generic.cu",
        "if (mask != nullptr) mask_out(sum, load_values<VEC>(mask + out));",
        "",
        "mask forgotten",
        POOL_MASK,
        (),
        True,
    ),
    (
        "pool/avg_pool2d_backward_generic.cu",
        "load_values<VEC>(mask + out)",
        "load_values<VEC>(mask + at.c)",
        "the mask of another pixel",
        POOL_MASK,
        (),
        True,
    ),
    (
        "norm/response.h",
        "relu && x <= 0.f",
        "relu && !(x > 0.f)",
        "NaN holds the gradient back",
        NORM_RELU,
        ("norm/lrn_backward_shared.cu",),
        True,
    ),
    (
        "norm/response.h",
        "return widen(x) * negative_power(scale, beta);",
        "return widen(y);",
        "the gradient made of a rounded y",
        NORM_Y,
        ("norm/lrn_backward_generic.cu",),
        True,
    ),
    (
        "norm/lrn_max_pool2d_backward_march.cu",
        "before_relu(relu, value, g",
        "before_relu(relu, sums[v], g",
        "the mask of another array",
        NORM_RELU,
        (),
        True,
    ),
    (
        "pointwise/dropout_backward_mask.cu",
        "(j % 4 * 8)",
        "(j % 2 * 8)",
        "the flags of other elements",
        POINTWISE,
        (),
        True,
    ),
    (
        "pointwise/add_bias_rows.cu",
        "c = c == cols ? 0 : c;",
        "c = c > cols ? 0 : c;",
        "a vector across two rows takes a bias too many",
        POINTWISE,
        (),
        True,
    ),
]
