"""The bugs that test_planted_bugs.py plants in the library's kernels, and which tests must notice them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support.planted import (
    planted_bf16,
    planted_conv_bf16,
    planted_dgrad_tf32,
    planted_halo,
    planted_masks,
    planted_pooled,
    planted_stream_k,
    planted_wgmma,
    planted_wgrad_tf32,
)

FAMILIES = ("augment", "conv", "loss", "norm", "optim", "pointwise", "pool")


@dataclass(frozen=True)
class Mutation:
    """One planted bug."""

    file: str  # under kernels/
    old: str  # occurs exactly once
    new: str
    plants: str
    tests: tuple[str, str]  # file, and the expression of pytest -k
    rebuild: tuple[str, ...] = ()  # files to compile anew, or KERNEL.cu of a tile; default: the mutated one
    slow: bool = False

    @property
    def concerned(self) -> tuple[str, ...]:
        """The files to compile with it."""
        return self.rebuild or (self.file,)

    @property
    def family(self) -> str:
        return self.file.split("/")[0]

    @property
    def name(self) -> str:
        return f"{Path(self.file).stem}: {self.plants}"


AUGMENT = ("test_augment_indices.py", "(test_kernels and uint8 and mix) or not_there")
POOL_MAX = ("test_pool.py", "test_max_kernels and mix and not misaligned")
POOL_AVG = ("test_pool.py", "test_avg_kernels and mix and not misaligned")
NORM = ("test_norm.py", "test_channel_kernels and (fwd or mix)")
NORM_SPATIAL = ("test_norm.py", "test_pixel_kernels and (fwd or mix)")
NORM_POOLED = ("test_lrn_max_pool.py", "(test_kernels and (fwd or mix)) or order_of_threads")
BIAS = ("test_pointwise.py", "test_bias_backward and fwd and not schedule")
DROPOUT = ("test_dropout.py", "test_dropout_is_the_same_bits_everywhere and emulator")
ELEMENTWISE = ("test_pointwise.py", "test_elementwise_kernels and fwd")
LOSS = (
    "test_loss.py",
    "(test_softmax_cross_entropy_kernels and mix) or test_ties or test_logits_that_are_not_finite",
)
WEIGHTS = ("test_class_weights.py", "test_class_weights_in_every_kernel and emulator")
OPTIM = (
    "test_optim.py",
    "(test_kernels_follow_the_paper and mix) or test_kernel_leaves or test_one_step_by_hand",
)
SGD = ("optim/sgd_momentum_flat.cu", "optim/sgd_momentum_beside.cu")
FPROP = ("test_conv.py", "test_fprop and tile64")
DGRAD = ("test_conv.py", "test_dgrad and tile64")
WGRAD = ("test_conv.py", "test_wgrad and tile64")
SPLIT = ("test_conv.py", "test_wgrad and tile96")
GROUPS = ("test_conv.py", "test_every_schedule_gives_the_same_bits and fprop_tile64 and (fwd or rev)")
MMA = {op: ("test_conv_precision.py", f"test_kernel and {op}_mma64x64") for op in ("fprop", "dgrad", "wgrad")}
MMA64 = {op: (f"conv2d_{op}_mma64x64.cu",) for op in ("fprop", "dgrad", "wgrad")}
TILE64 = {op: (f"conv2d_{op}_tile64.cu",) for op in ("fprop", "dgrad", "wgrad")}
LAST_BARRIER = "    }\n    __syncthreads();\n  }\n}"

MUTATIONS = [
    # ---- augment
    Mutation(
        "augment/gather.h",
        "static_cast<long long>(image) * shape.h",
        "static_cast<long long>(n) * shape.h",
        "the image of the crop's own number",
        AUGMENT,
        ("augment/augment_any.cu",),
    ),
    Mutation(
        "augment/gather.h",
        "image >= static_cast<unsigned>(shape.images)",
        "image > static_cast<unsigned>(shape.images)",
        "the image after the last",
        AUGMENT,
        ("augment/augment_any.cu",),
        slow=True,
    ),
    Mutation(
        "augment/to_depth.h",
        "value_of(from, shape, channels, n, i,",
        "value_of(from, shape, channels, n / 2 * 2, i,",
        "the index of the crop before",
        AUGMENT,
        ("augment/augment_depth.cu",),
        slow=True,
    ),
    # ---- conv
    Mutation(
        "conv/gemm_tile.h", LAST_BARRIER, "    }\n  }\n}", "no barrier between steps", FPROP, TILE64["fprop"]
    ),
    Mutation(
        "conv/gemm_tile.h",
        "if (start < 0) continue;\n    E* row = out",
        "if (start <= 0) continue;\n    E* row = out",
        "first row not written",
        FPROP,
        TILE64["fprop"],
    ),
    Mutation(
        "conv/gemm_tile.h",
        "for (int s = 0; s < splits; ++s)",
        "for (int s = 1; s < splits; ++s)",
        "one piece of a split reduction lost",
        SPLIT,
        # add_pieces is the same function in every file; the linker takes the planted one, which comes first.
        ("conv2d_wgrad_tile96.cu",),
    ),
    Mutation(
        "conv/fprop.h",
        "np % s.p * s.stride_h - s.pad_h",
        "np % s.p * s.stride_w - s.pad_h",
        "strides swapped",
        FPROP,
        TILE64["fprop"],
        slow=True,
    ),
    Mutation(
        "conv/fprop.h",
        "group_filters - n0, args.vectors",
        "k - first_filter, args.vectors",
        "columns of the next group overwritten",
        GROUPS,
        TILE64["fprop"],
        slow=True,
    ),
    Mutation(
        "conv/dgrad.h",
        "(ph.tap0 * s.s + pw.tap0) * group_channels",
        "(ph.tap0 * s.s) * group_channels",
        "first tap of a phase wrong",
        DGRAD,
        TILE64["dgrad"],
        slow=True,
    ),
    Mutation(
        "conv/wgrad.h",
        "tap % s.s, weight < args.cols ? tap / s.s : -1",
        "tap % s.r, weight < args.cols ? tap / s.r : -1",
        "filter extents swapped",
        WGRAD,
        TILE64["wgrad"],
        slow=True,
    ),
    Mutation(
        "conv/loaders.h",
        "static_cast<unsigned>(w) < static_cast<unsigned>(width);\n      const unsigned offset =\n",
        "static_cast<unsigned>(w) <= static_cast<unsigned>(width);\n      const unsigned offset =\n",
        "a column too many",
        WGRAD,
        TILE64["wgrad"],
        slow=True,
    ),
    Mutation(
        "conv/loaders.h",
        "if (++at.middle == radix.middle) at.middle = 0, ++at.outer;",
        "++at.middle;",
        "carry of the reduction index lost",
        DGRAD,
        TILE64["dgrad"],
        slow=True,
    ),
    # ---- conv on tensor cores
    Mutation(
        "conv/mma_tile.h",
        "      cp_async_wait<T::STAGES - 2>();\n      __syncthreads();",
        "      cp_async_wait<T::STAGES - 1>();\n      __syncthreads();",
        "a stage read before its copies landed",
        MMA["fprop"],
        MMA64["fprop"],
    ),
    Mutation(
        "conv/mma_tile.h",
        "      cp_async_wait<T::STAGES - 2>();\n      __syncthreads();",
        "      cp_async_wait<T::STAGES - 2>();",
        "no barrier between stages",
        MMA["wgrad"],
        MMA64["wgrad"],
        slow=True,
    ),
    Mutation(
        "conv/mma_tile.h",
        "into = into == (T::STAGES - 1) * STAGE",
        "into = into == (T::STAGES - 2) * STAGE",
        "wrong stage written",
        MMA["fprop"],
        MMA64["fprop"],
        slow=True,
    ),
    Mutation(
        "conv/mma_tile.h",
        "if (ks == 0) fetch(",
        "if (ks == KS - 1) fetch(",
        "a stage refilled a step late",
        MMA["fprop"],
        MMA64["fprop"],
        slow=True,
    ),
    Mutation(
        "conv/mma_tile.h",
        "CHUNKS == 8 ? chunk ^ (row & 7)",
        "CHUNKS == 8 ? chunk ^ (row & 3) * (chunk & 1)",
        "a swizzle that maps two chunks to one place",
        MMA["fprop"],
        MMA64["fprop"],
    ),
    Mutation(
        "conv/mma_loaders.h",
        "AlongTile<E, ROWS, BK>::at(row(), threadIdx.x % LANES)",
        "AlongTile<E, ROWS, BK>::at(0, threadIdx.x % LANES) + row() * BK",
        "written without the swizzle it is read with",
        MMA["dgrad"],
        MMA64["dgrad"],
        slow=True,
    ),
    Mutation(
        "conv/mma_tile.h",
        "a[1] = __float_as_uint(mine[8]);",
        "a[1] = __float_as_uint(mine[4 * STRIDE]);",
        "a fragment's registers swapped",
        MMA["wgrad"],
        MMA64["wgrad"],
    ),
    Mutation(
        "conv/mma_tile.h",
        "first + 8 * j + lane / 16 * 8 + lane % 8, 2 * ks + lane / 8 % 2",
        "first + 8 * j + lane / 16 * 8 + lane % 8, 2 * ks + lane / 16",
        "two products share half a fragment",
        MMA["fprop"],
        MMA64["fprop"],
        slow=True,
    ),
    Mutation(
        "conv/mma_tile.h",
        "mma_m16n8k8_tf32(sum[j], a_big, b_small[j]);",
        "mma_m16n8k8_tf32(sum[j], a_small, b_small[j]);",
        "one of the three products is another",
        MMA["dgrad"],
        MMA64["dgrad"],
        slow=True,
    ),
    Mutation(
        "conv/elements.h",
        "return __float_as_uint(__uint_as_float(x) * (1.f + 23.f / 65536.f));",
        "return x;",
        "operands cut off, not rounded",
        MMA["fprop"],
        MMA64["fprop"],
        slow=True,
    ),
    # ---- pool
    Mutation(
        "pool/max_pool2d_generic.cu",
        "(r * shape.s + s);",
        "(r * shape.r + s);",
        "row pitch of the argmax",
        POOL_MAX,
    ),
    Mutation(
        "pool/max_pool2d_backward_3x3_stride2.cu",
        "  add_share(sums[1][1], w11, 4);\n",
        "",
        "a window's share forgotten",
        POOL_MAX,
    ),
    Mutation(
        "pool/max_pool2d_3x3_stride2.cu",
        "h + 2 < shape.h;",
        "h + 2 <= shape.h;",
        "a row too many",
        POOL_MAX,
        slow=True,
    ),
    Mutation(
        "pool/max_pool2d_3x3_stride2.cu",
        "    top = end;\n",
        "",
        "the row shared by two windows not passed on",
        POOL_MAX,
        slow=True,
    ),
    Mutation(
        "pool/avg_pool2d_generic.cu",
        "counted(w0, shape.s, shape.w,",
        "counted(w0, shape.r, shape.w,",
        "count from the other extent",
        POOL_AVG,
        slow=True,
    ),
    Mutation(
        "pool/max_pool2d_backward_generic.cu",
        "(h - p * shape.stride_h) * shape.s",
        "(h - p * shape.stride_w) * shape.s",
        "strides swapped",
        POOL_MAX,
        slow=True,
    ),
    # ---- norm
    Mutation(
        "norm/lrn_generic.cu",
        "reach_of_window(shape.size)",
        "reach_of_windows_over(shape.size)",
        "window mirrored",
        NORM,
    ),
    Mutation("norm/lrn_shared.cu", "  __syncthreads();\n", "", "barrier removed", NORM),
    Mutation(
        "norm/lrn_shared.cu",
        "per_group - 1 - place",
        "per_group - place",
        "window reaches into the next group",
        NORM,
        slow=True,
    ),
    Mutation(
        "norm/shuffle.h",
        "  if (lane == 31 && has_right) beyond = term(thread + 1);\n",
        "",
        "the next warp's channels missing",
        NORM,
        ("norm/lrn_shuffle.cu",),
        slow=True,
    ),
    Mutation(
        "norm/lrn_backward_generic.cu",
        "reach_of_windows_over(shape.size)",
        "reach_of_window(shape.size)",
        "window mirrored",
        NORM,
        slow=True,
    ),
    Mutation(
        "norm/march.h",
        "    __syncthreads();\n",
        "",
        "barrier removed",
        NORM_SPATIAL,
        ("norm/lrn_spatial_march.cu",),
        slow=True,
    ),
    Mutation(
        "norm/march.h",
        "smem.line[step % 2];",
        "smem.line[0];",
        "one line instead of two",
        NORM_SPATIAL,
        ("norm/lrn_spatial_march.cu",),
        slow=True,
    ),
    *[Mutation(*bug, NORM_POOLED, files, slow) for *bug, files, slow in planted_pooled.BUGS],
    *[Mutation(*bug) for bug in [*planted_masks.BUGS, *planted_bf16.BUGS, *planted_conv_bf16.BUGS]],
    # slow: compiling one takes ten seconds, and tests/ptx/test_rows.py has the like in the PTX
    *[
        Mutation(*bug, slow=True)
        for planted in (
            planted_wgmma,
            planted_halo,
            planted_wgrad_tf32,
            planted_dgrad_tf32,
            planted_stream_k,
        )
        for bug in planted.BUGS
    ],
    # ---- pointwise
    Mutation(
        "pointwise/bias_backward_two_stage.cu",
        "s += GROUPS) sum +=",
        "s += GROUPS + 1) sum +=",
        "partial sums skipped",
        BIAS,
    ),
    Mutation(
        "pointwise/bias_backward_two_stage.cu",
        "  smem.sum[group][lane] = sum;\n  __syncthreads();",
        "  smem.sum[group][lane] = sum;",
        "barrier removed",
        BIAS,
        slow=True,
    ),
    Mutation(
        "pointwise/dropout.h",
        "(words.z >> 8) >= threshold",
        "(words.y >> 8) >= threshold",
        "a word used twice",
        DROPOUT,
        ("pointwise/dropout_philox.cu",),
        slow=True,
    ),
    Mutation(
        "pointwise/elementwise.h",
        "unsigned i = VEC * whole + blockIdx.x * THREADS",
        "unsigned i = VEC * whole + 1 + blockIdx.x * THREADS",
        "first element of the tail not written",
        ELEMENTWISE,
        ("pointwise/relu_forward.cu",),
        slow=True,
    ),
    # ---- loss
    Mutation(
        "loss/rows.h",
        "slots[threadIdx.x / 32] = value;\n  __syncthreads();",
        "slots[threadIdx.x / 32] = value;",
        "barrier removed",
        LOSS,
        ("loss/softmax_cross_entropy_block.cu",),
    ),
    Mutation(
        "loss/rows.h",
        "c < label);",
        "c <= label);",
        "the label counted before itself",
        LOSS,
        ("loss/softmax_cross_entropy_warp.cu",),
        slow=True,
    ),
    Mutation(
        "loss/softmax_cross_entropy_block.cu",
        "o.rank >= topk;",
        "o.rank > topk;",
        "top-k off by one",
        LOSS,
        slow=True,
    ),
    Mutation(
        "loss/softmax_cross_entropy_block.cu",
        "metrics[3] += top_k;",
        "metrics[3] = top_k;",
        "a metric not added to",
        LOSS,
        slow=True,
    ),
    Mutation(
        "loss/softmax_cross_entropy_warp.cu",
        "* factor);",
        "* grad_scale);",
        "a class weight left out of the gradient",
        WEIGHTS,
        slow=True,
    ),
    # ---- optim
    Mutation(
        "optim/sgd_tile.h",
        "{momentum, weight_decay * rate, rate}",
        "{momentum, weight_decay * lr, rate}",
        "decay without the multiplier",
        OPTIM,
        SGD,
        slow=True,
    ),
    Mutation(
        "optim/sgd_momentum_beside.cu",
        "(gridDim.x) * BESIDE_TILE;",
        "(gridDim.x + 1) * BESIDE_TILE;",
        "tiles left out in every round",
        OPTIM,
        slow=True,
    ),
    Mutation(
        "optim/sgd_tile.h",
        "__ldg(ends + s) <= i) ++s;",
        "__ldg(ends + s) < i) ++s;",
        "segment off by one",
        OPTIM,
        SGD,
    ),
]
