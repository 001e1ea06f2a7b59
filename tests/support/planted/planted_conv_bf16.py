"""Bugs for test_planted_bugs.py: the tensor-core kernels of bfloat16 arrays."""

MMA = {
    op: ("test_conv_bf16.py", f"test_kernel and emulator and eight and {op}_mma64x64")
    for op in ("fprop", "dgrad", "wgrad")
}
SCHEDULES = ("test_conv_bf16.py", "test_every_schedule and fprop_mma64x64")
MMA64 = {op: (f"conv2d_{op}_mma64x64_bf16.cu",) for op in ("fprop", "dgrad", "wgrad")}
FIRST_LAYER = ("test_conv_bf16.py", "test_kernel and emulator and first_layer and fprop")

#: What a Mutation is made of, in its order.
BUGS = [
    (
        "conv/mma_tile.h",
        "mine = tile + at(16 * ks + lane / 16 * 8 + lane % 8, first + lane / 8 % 2 * 8)",
        "mine = tile + at(16 * ks + lane / 8 % 2 * 8 + lane % 8, first + lane / 16 * 8)",
        "middle matrices of a transposed fragment swapped",
        MMA["wgrad"],
        MMA64["wgrad"],
    ),
    (
        "conv/mma_tile.h",
        "mine = tile + at(16 * ks + lane % 16, first + lane / 16 * 8)",
        "mine = tile + at(16 * ks + lane / 16 * 8 + lane % 8, first + lane / 8 % 2 * 8)",
        "two products' transposed fragments mixed",
        MMA["dgrad"],
        MMA64["dgrad"],
        True,
    ),
    (
        "conv/mma_tile.h",
        "ldmatrix_x4_trans(a[i], mine + 16 * i)",
        "ldmatrix_x4(a[i], mine + 16 * i)",
        "a fragment not transposed",
        MMA["wgrad"],
        MMA64["wgrad"],
        True,
    ),
    (
        "conv/mma_tile.h",
        "KS = T::BK / (2 * kChunk<E>)",
        "KS = T::BK / 8",
        "twice as many products as a stage holds",
        MMA["fprop"],
        MMA64["fprop"],
        True,
    ),
    (
        "conv/mma_tile.h",
        "CHUNKS == 8 ? chunk ^ (row & 7)",
        "CHUNKS == 8 ? chunk ^ (row & 3) * (chunk & 1)",
        "a swizzle that maps two chunks of bfloat16 to one place",
        MMA["fprop"],
        MMA64["fprop"],
        True,
    ),
    (
        "conv/mma_tile.h",
        "        cp_async_wait<T::STAGES - 2>();\n        __syncthreads();",
        "        cp_async_wait<T::STAGES - 1>();\n        __syncthreads();",
        "a stage of bfloat16 read before its copies landed",
        SCHEDULES,
        MMA64["fprop"],
        True,
    ),
    (
        "conv/mma_tile.h",
        "column += odd ? 6 : 0;",
        "column += odd ? 8 : 0;",
        "a pair's odd lane stores two columns too far",
        MMA["fprop"],
        MMA64["fprop"],
    ),
    (
        "conv/mma_tile.h",
        "keep = odd ? right : left, give = odd ? left : right",
        "keep = odd ? right : left, give = odd ? right : left",
        "lanes of a pair exchange what they should keep",
        MMA["dgrad"],
        MMA64["dgrad"],
        True,
    ),
    (
        "conv/mma_tile.h",
        "(m[2] <= 0.f ? 0u : 0xffffu) | (m[3] <= 0.f ? 0u : 0xffff0000u)",
        "(m[3] <= 0.f ? 0u : 0xffffu) | (m[2] <= 0.f ? 0u : 0xffff0000u)",
        "neighbours' masks swapped",
        ("test_masked_dgrad.py", "test_conv2d_dgrad and emulator and eight and mma64x64 and bf16"),
        MMA64["dgrad"],
        True,
    ),
    (
        "conv/mma_loaders.h",
        "column() { return threadIdx.x % SPAN * kChunk<E>; }",
        "column() { return threadIdx.x % SPAN * 4; }",
        "half a chunk copied twice",
        MMA["wgrad"],
        MMA64["wgrad"],
        True,
    ),
    (
        "conv/gemm_tile.h",
        "} else if (gridDim.y > 1) {",
        "} else if (gridDim.y > 2) {",
        "two pieces stored as the result",
        ("test_conv_bf16.py", "test_pieces_that_are_asked_for and many_channels"),
        ("conv/conv2d_fprop_generic.cu",),
        True,
    ),
    (
        "conv/space_to_depth.h",
        "DepthChannel::of(c0 + e, s.c, t)",
        "DepthChannel::of(c0, s.c, t)",
        "all of 16 bytes of the rearranged image from one tap and channel",
        FIRST_LAYER,
        ("conv/conv2d_fprop_first_layer.cu",),
        True,
    ),
]
