"""The executor of PTX: what threads do together, and what memory they share."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from support.executor import Machine
from support.ptx_text import module

LATE, EARLY, RANDOM = 0, 1, 2


def bf16(x):
    """float32 cut to bfloat16, as bits."""
    return (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


OWN = """mov.u32 %r0, %tid.x; ld.param.u64 %d0, [out]; mul.wide.u32 %d1, %r0, 4; add.u64 %d0, %d0, %d1;
mov.u32 %r1, %laneid;"""


def words(library, body, block=32, params=("out",), arrays=(), outside="", dynamic=0, count=1, **options):
    """Run a body between OWN and a store of %r30 for each thread; returns those (or `count` a thread)."""
    out = np.zeros(block * count, np.uint32)
    text = module(OWN + body + "st.global.b32 [%d0], %r30;", params, outside=outside)
    Machine(library, text, **options).run(out, *arrays, block=block, dynamic=dynamic)
    return out


# ---------------------------------------------------------------- lanes

SHUFFLES = {
    "up": lambda lane, b, width: lane - b if lane % width >= b else lane,
    "down": lambda lane, b, width: lane + b if lane % width + b < width else lane,
    "bfly": lambda lane, b, width: lane ^ b if (lane ^ b) // width <= lane // width else lane,
    "idx": lambda lane, b, width: lane // width * width + b % width,
}


@pytest.mark.parametrize("width", [32, 16, 8])
@pytest.mark.parametrize("mode", SHUFFLES)
def test_shfl(library, mode, width):
    for b in (0, 1, 3, 7, 15):
        clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
        body = f"""mul.lo.u32 %r2, %r1, 3; shfl.sync.{mode}.b32 %r30|%p1, %r2, {b}, {clamp}, -1;
        selp.b32 %r3, 1, 0, %p1; shl.b32 %r3, %r3, 16; or.b32 %r30, %r30, %r3;"""
        got = words(library, body)
        lanes = np.arange(32)
        source = np.array([SHUFFLES[mode](lane, b, width) for lane in lanes])
        np.testing.assert_array_equal(got & 0xFFFF, 3 * source)
        moved = (source != lanes) | (mode == "idx") | (b == 0)
        np.testing.assert_array_equal((got >> 16).astype(bool), moved)


COLLECTIVE = {
    "vote.sync.all.pred %p2, %p1, -1; selp.b32 %r30, 1, 0, %p2;": lambda x: np.zeros(32),
    "vote.sync.any.pred %p2, %p1, -1; selp.b32 %r30, 1, 0, %p2;": lambda x: np.ones(32),
    "vote.sync.uni.pred %p2, %p1, -1; selp.b32 %r30, 1, 0, %p2;": lambda x: np.zeros(32),
    "vote.sync.ballot.b32 %r30, %p1, -1;": lambda x: np.full(32, sum(1 << i for i in range(32) if x[i] > 3)),
    "vote.sync.ballot.b32 %r30, !%p1, -1;": lambda x: np.full(
        32, sum(1 << i for i in range(32) if x[i] <= 3)
    ),
    "match.any.sync.b32 %r30, %r2, -1;": lambda x: [sum(1 << j for j in range(32) if x[j] == v) for v in x],
    "match.all.sync.b32 %r30|%p2, %r2, -1;": lambda x: np.zeros(32),
    "redux.sync.add.u32 %r30, %r2, -1;": lambda x: np.full(32, x.sum()),
    "redux.sync.max.s32 %r30, %r2, -1;": lambda x: np.full(32, x.max()),
    "redux.sync.min.u32 %r30, %r2, -1;": lambda x: np.full(32, x.min()),
    "redux.sync.xor.b32 %r30, %r2, -1;": lambda x: np.full(32, np.bitwise_xor.reduce(x)),
    "redux.sync.or.b32 %r30, %r2, -1;": lambda x: np.full(32, np.bitwise_or.reduce(x)),
    "redux.sync.and.b32 %r30, %r2, -1;": lambda x: np.full(32, np.bitwise_and.reduce(x)),
    "elect.sync %r3|%p2, -1; selp.b32 %r30, %r3, 9, %p2;": lambda x: np.where(np.arange(32) == 0, 0, 9),
    "activemask.b32 %r30;": lambda x: np.full(32, 2**32 - 1),
    "mov.u32 %r30, %lanemask_lt;": lambda x: 2 ** np.arange(32) - 1,
}


@pytest.mark.parametrize("text", COLLECTIVE)
def test_collectives(library, text):
    x = np.arange(32) * 5 % 7
    got = words(library, "mul.lo.u32 %r2, %r1, 5; rem.u32 %r2, %r2, 7; setp.gt.u32 %p1, %r2, 3;" + text)
    np.testing.assert_array_equal(got, np.asarray(COLLECTIVE[text](x), np.uint32))


def test_lanes_that_go_apart_meet_again(library):
    """Collatz: every lane leaves its loop at another time; then all shuffle."""
    body = """add.u32 %r2, %r0, 1; mov.u32 %r3, 0;
    L: setp.eq.u32 %p1, %r2, 1; @%p1 bra E;
    and.b32 %r4, %r2, 1; setp.eq.u32 %p2, %r4, 0; @%p2 bra H;
    mad.lo.u32 %r2, %r2, 3, 1; bra N;
    H: shr.u32 %r2, %r2, 1;
    N: add.u32 %r3, %r3, 1; bra L;
    E: shfl.sync.bfly.b32 %r30, %r3, 1, 31, -1;"""

    def steps(n):
        return 0 if n == 1 else 1 + steps(3 * n + 1 if n % 2 else n // 2)

    got = words(library, body, block=64)
    np.testing.assert_array_equal(got, [steps((i ^ 1) + 1) for i in range(64)])


def test_lanes_wait_for_those_sent_elsewhere(library):
    """The lanes that come to a barrier by way of a block at the end of the text are waited for."""
    body = """setp.lt.u32 %p1, %r1, 9; mov.u32 %r30, 1; @%p1 bra FAR;
    BACK: bar.sync 0; add.u32 %r30, %r30, 10; bra END;
    FAR: mov.u32 %r30, 2; bra BACK;
    END: """
    np.testing.assert_array_equal(words(library, body), np.where(np.arange(32) < 9, 12, 11))


# ---------------------------------------------------------------- blocks

SHARED = ".shared .align 4 .b32 s[256];\n.extern .shared .align 16 .b8 window[];"


@pytest.mark.parametrize("order", [0, 1, 2])
def test_barriers_and_shared_memory(library, order):
    body = """mov.u32 %r2, s; shl.b32 %r3, %r0, 2; add.u32 %r4, %r2, %r3; mul.lo.u32 %r5, %r0, %r0;
    st.shared.b32 [%r4], %r5;
    bar.sync 0; sub.u32 %r6, 255, %r0; shl.b32 %r6, %r6, 2; add.u32 %r6, %r2, %r6;
    ld.shared.b32 %r30, [%r6];"""
    got = words(library, body, block=256, outside=SHARED, order=order)
    np.testing.assert_array_equal(got, (255 - np.arange(256)) ** 2)


def test_barrier_reductions(library):
    body = """setp.lt.u32 %p1, %r0, 40; bar.red.popc.u32 %r2, 0, %p1; bar.red.and.pred %p2, 0, !%p1;
    bar.red.or.pred %p3, 0, %p1;
    selp.b32 %r3, 100, 0, %p2; selp.b32 %r4, 1000, 0, %p3; add.u32 %r30, %r2, %r3; add.u32 %r30, %r30, %r4;"""
    np.testing.assert_array_equal(words(library, body, block=96), np.full(96, 1040))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_named_barriers(library, order):
    """A warp makes, the other takes, three times, with a barrier each way."""
    body = """mov.u32 %r2, s; shl.b32 %r3, %r1, 2; add.u32 %r4, %r2, %r3; setp.ge.u32 %p1, %r0, 32;
    mov.u32 %r5, 0; mov.u32 %r30, 0;
    @%p1 bra TAKE;
    MAKE: bar.sync 2, 64; add.u32 %r6, %r5, %r1; st.shared.b32 [%r4], %r6; bar.arrive 1, 64;
    add.u32 %r5, %r5, 1; setp.lt.u32 %p2, %r5, 3; @%p2 bra MAKE;
    bra END;
    TAKE: bar.arrive 2, 64; bar.sync 1, 64; ld.shared.b32 %r6, [%r4]; add.u32 %r30, %r30, %r6;
    add.u32 %r5, %r5, 1; setp.lt.u32 %p2, %r5, 3; @%p2 bra TAKE;
    END: """
    got = words(library, body, block=64, outside=SHARED, order=order)
    np.testing.assert_array_equal(got[32:], 3 * np.arange(32) + 3)


def test_spaces_and_generic_addresses(library):
    """Shared, local and parameter memory by way of generic addresses; vectors, signs, bytes."""
    body = """.local .align 16 .b8 mine[32];
    mov.u64 %d2, mine; cvta.local.u64 %d3, %d2; mov.u32 %r2, s; cvt.u64.u32 %d4, %r2;
    cvta.shared.u64 %d5, %d4;
    mul.wide.u32 %d6, %r0, 4; add.u64 %d5, %d5, %d6;
    st.b32 [%d5], %r0; st.local.v2.b32 [mine+8], {%r0, %r1}; ld.v2.b32 {%r3, %r4}, [%d3+8];
    ld.b32 %r5, [%d5]; mov.u16 %h1, -2; st.local.u8 [mine], %h1; ld.local.s8 %r6, [mine];
    ld.local.u8 %r7, [%d2];
    mov.b64 %d7, more; cvta.param.u64 %d8, %d7; ld.u32 %r8, [%d8+4]; ld.param.u32 %r9, [%d7];
    cvta.to.shared.u64 %d9, %d5; ld.shared.b32 %r10, [%d9];
    add.u32 %r30, %r3, %r4; add.u32 %r30, %r30, %r5; add.u32 %r30, %r30, %r6; add.u32 %r30, %r30, %r7;
    add.u32 %r30, %r30, %r8; add.u32 %r30, %r30, %r9; add.u32 %r30, %r30, %r10;"""
    more = np.array([1000, 5000], np.uint32).tobytes()
    got = words(library, body, 64, ("out", ".param .align 4 .b8 more[8]"), [more], SHARED)
    t = np.arange(64)
    np.testing.assert_array_equal(got, t + t % 32 + t - 2 + 254 + 5000 + 1000 + t)


ATOMICS = {
    "add.u32": (lambda old, x: old + x, 5),
    "min.s32": (min, 100),
    "max.s32": (max, 7),
    "and.b32": (lambda old, x: old & x, 0xFF0),
    "or.b32": (lambda old, x: old | x, 1),
    "xor.b32": (lambda old, x: old ^ x, 3),
    "exch.b32": (lambda old, x: x, 1),
    "inc.u32": (lambda old, x: 0 if old >= x else old + 1, 4),
    "dec.u32": (lambda old, x: x if old == 0 or old > x else old - 1, 4),
}


@pytest.mark.parametrize("op", ATOMICS)
def test_atomics(library, op):
    function, start = ATOMICS[op]
    target = np.array([start], np.uint32)
    got = words(
        library,
        f"ld.param.u64 %d2, [target]; add.u32 %r2, %r0, 3; atom.global.{op} %r30, [%d2], %r2;",
        64,
        ("out", "target"),
        [target],
    )
    value = start
    for i in range(64):
        assert got[i] == value
        value = function(value, i + 3)
    assert target[0] == value


def test_atomics_of_many_blocks(library):
    out, lock = np.zeros(3, np.float32), np.zeros(1, np.uint32)
    text = module(
        """ld.param.u64 %d0, [out]; ld.param.u64 %d2, [lock]; red.global.add.f32 [%d0], 0f3F800000;
    atom.global.cas.b32 %r1, [%d2], 0, 77; atom.global.add.u32 %r2, [%d0+4], 1;
    st.global.b32 [%d0+8], %r1;""".replace("st.global.b32 [%d0+8], %r1;", ""),
        ("out", "lock"),
    )
    Machine(library, text, threads=2).run(out, lock, grid=(4, 3, 2), block=64)
    assert out[0] == 24 * 64
    assert out.view(np.uint32)[1] == 24 * 64
    assert lock[0] == 77


# ---------------------------------------------------------------- asynchronous copies

COPY = """ld.param.u64 %d2, [x]; shl.b32 %r2, %r0, 4; cvt.u64.u32 %d3, %r2; add.u64 %d2, %d2, %d3;
    mov.u32 %r3, window; add.u32 %r4, %r3, %r2;
and.b32 %r5, %r0, 3; shl.b32 %r5, %r5, 2; setp.lt.u32 %p1, %r0, 32; selp.b32 %r5, 16, %r5, %p1;
cp.async.cg.shared.global [%r4], [%d2], 16, %r5; cp.async.commit_group;
    cp.async.ca.shared.global [%r4+1024], [%d2], 8; cp.async.commit_group;"""


@pytest.mark.parametrize("when", [LATE, EARLY, RANDOM])
def test_copies(library, when):
    """All of 16 bytes, 0 to 12 of them and zeros, then a group that is waited for second."""
    x = np.arange(1, 64 * 4 + 1, dtype=np.uint32)
    body = (
        COPY
        + """cp.async.wait_group 1; ld.shared.v4.b32 {%r10, %r11, %r12, %r13}, [%r4]; cp.async.wait_all;
    ld.shared.v2.b32 {%r14, %r15}, [%r4+1024];
    add.u32 %r30, %r10, %r11; add.u32 %r30, %r30, %r12; add.u32 %r30, %r30, %r13;
    mad.lo.u32 %r30, %r15, 65536, %r30;"""
    )
    got = words(library, body, 64, ("out", "x"), [x], SHARED, 2048, async_=when)
    rows = x.reshape(64, 4).copy()
    second = rows[:, 1].copy()
    for t in range(32, 64):
        rows[t, t % 4 :] = 0
    np.testing.assert_array_equal(got, rows.sum(1) + second * 65536)


# ---------------------------------------------------------------- matrices


@pytest.mark.parametrize("trans", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(library, count, trans):
    matrices = np.arange(count * 64, dtype=np.uint16).reshape(count, 8, 8)
    fill = "".join(
        f"ld.global.b32 %r10, [%d2+{128 * i}]; st.shared.b32 [%r4+{128 * i}], %r10;" for i in range(count)
    )
    registers = ", ".join(f"%r{20 + i}" for i in range(count))
    body = f"""ld.param.u64 %d2, [x]; shl.b32 %r2, %r1, 2; cvt.u64.u32 %d3, %r2; add.u64 %d2, %d2, %d3;
    mov.u32 %r3, window; add.u32 %r4, %r3, %r2;
    {fill} bar.sync 0; rem.u32 %r5, %r1, {8 * count}; shl.b32 %r5, %r5, 4; add.u32 %r5, %r3, %r5;
    ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{registers}}}, [%r5];
    mul.lo.u32 %r6, %r1, {4 * count - 4}; cvt.u64.u32 %d4, %r6; add.u64 %d0, %d0, %d4; mov.b32 %r30, %r20;
    """ + "".join(f"st.global.b32 [%d0+{4 * i}], %r{20 + i};" for i in range(1, count))
    got = words(library, body, 32, ("out", "x"), [matrices], SHARED, 2048, count=count)
    if trans:
        matrices = matrices.transpose(0, 2, 1)
    want = np.ascontiguousarray(matrices).view(np.uint32).reshape(count, 32).T.reshape(-1)
    np.testing.assert_array_equal(got, want)


def fragments(matrix, per, kind):
    """A lane's registers of a fragment: rows of A (16 x K), columns of B (K x 8), sums (16 x 8)."""
    lanes = np.arange(32)
    group, member = lanes // 4, lanes % 4
    if kind == "sums":
        return np.stack([matrix[group + r // 2 * 8, 2 * member + r % 2] for r in range(4)], 1)
    by_rows = matrix if kind == "a" else matrix.T
    count = (2 if kind == "a" else 1) * by_rows.shape[1] // (4 * per)
    out = []
    for r in range(count):
        rows, step = (group + r % 2 * 8, r // 2) if kind == "a" else (group, r)
        pieces = [by_rows[rows, step * 4 * per + member * per + k] for k in range(per)]
        out.append(pieces[0] if per == 1 else pieces[0].astype(np.uint32) | pieces[1].astype(np.uint32) << 16)
    return np.stack(out, 1)


@pytest.mark.parametrize(
    "shape", ["m16n8k8.tf32", "m16n8k4.tf32", "m16n8k16.bf16", "m16n8k8.bf16", "m16n8k16.f16", "m16n8k8.f16"]
)
def test_mma(library, shape):
    """Small integers, for which every sum is exact; TF32 ignores the 13 low bits."""
    size, kind = shape.split(".")
    depth, per = int(size[6:]), 1 if kind == "tf32" else 2
    rng = np.random.default_rng(3)
    a, b, c = (rng.integers(-8, 9, s).astype(np.float32) for s in ((16, depth), (depth, 8), (16, 8)))
    as_bits = {
        "tf32": lambda x: x.view(np.uint32) | 0x1FFF,
        "bf16": bf16,
        "f16": lambda x: x.astype(np.float16).view(np.uint16),
    }[kind]
    inputs = [
        fragments(as_bits(a), per, "a"),
        fragments(as_bits(b), per, "b"),
        fragments(c.view(np.uint32), 1, "sums"),
    ]
    pieces, lists = [], []
    for i, x in enumerate(inputs):
        n = x.shape[1]
        pieces.append(f"ld.param.u64 %d{i + 2}, [in{i}]; mad.wide.u32 %d{i + 2}, %r1, {4 * n}, %d{i + 2};")
        pieces += [f"ld.global.b32 %r{20 + 10 * i + k}, [%d{i + 2}+{4 * k}];" for k in range(n)]
        lists.append("{" + ", ".join(f"%r{20 + 10 * i + k}" for k in range(n)) + "}")
    d = ", ".join(f"%r{60 + k}" for k in range(4))
    body = (
        "".join(pieces)
        + f"mma.sync.aligned.{size}.row.col.f32.{kind}.{kind}.f32 {{{d}}}, {', '.join(lists)};"
    )
    body += (
        "mad.wide.u32 %d0, %r1, 12, %d0; st.global.v2.b32 [%d0], {%r60, %r61}; mov.b32 %r30, %r60;".replace(
            "v2.b32 [%d0], {%r60, %r61}", "b32 [%d0+4], %r61"
        )
    )
    body += "st.global.b32 [%d0+8], %r62; st.global.b32 [%d0+12], %r63;"
    got = words(
        library,
        body,
        32,
        ("out", "in0", "in1", "in2"),
        [np.ascontiguousarray(x, np.uint32) for x in inputs],
        count=4,
    )
    want = fragments(a @ b + c, 1, "sums").astype(np.float32)
    np.testing.assert_array_equal(got.view(np.float32), want.reshape(-1))


# ---------------------------------------------------------------- sm_90


class TensorMap(ctypes.Structure):
    """As executor.h has it."""

    _fields_ = [
        ("magic", ctypes.c_uint32),
        ("rank", ctypes.c_uint8),
        ("element_bytes", ctypes.c_uint8),
        ("swizzle", ctypes.c_uint8),
        ("im2col", ctypes.c_uint8),
        ("to_tf32", ctypes.c_uint8),
        ("nan_fill", ctypes.c_uint8),
        ("element_stride", ctypes.c_uint8 * 5),
        ("lower", ctypes.c_int8 * 3),
        ("upper", ctypes.c_int8 * 3),
        ("box", ctypes.c_uint16 * 5),
        ("base", ctypes.c_uint64),
        ("dim", ctypes.c_uint32 * 5),
        ("unused", ctypes.c_uint32),
        ("stride", ctypes.c_uint64 * 5),
        ("rest", ctypes.c_uint8 * 24),
    ]


def tensor_map(x, box, swizzle=0, **fields):
    m = TensorMap(
        magic=0x504D4154, rank=x.ndim, element_bytes=x.itemsize, swizzle=swizzle, base=x.ctypes.data, **fields
    )
    m.element_stride[:] = [1] * 5
    for i in range(x.ndim):
        m.dim[i], m.stride[i] = x.shape[-1 - i] - 1, x.strides[-1 - i]
    m.box[: len(box)] = box
    assert ctypes.sizeof(m) == 128
    return m


LOAD = """mov.u32 %r2, window; add.u32 %r2, %r2, 1023; and.b32 %r2, %r2, -1024; mov.u32 %r3, bar;
    setp.eq.u32 %p1, %r0, 0; @!%p1 bra W;
mbarrier.init.shared::cta.b64 [%r3], 1; fence.mbarrier_init.release.cluster;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], {bytes};
cvta.param.u64 %d2, %d9; cp.async.bulk.tensor.{load}
W: bar.sync 0; T: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0; @!%p2 bra T;
shl.b32 %r4, %r0, 2; add.u32 %r4, %r2, %r4; """
BAR = ".shared .align 8 .b64 bar;\n.extern .shared .align 16 .b8 window[];"


@pytest.mark.parametrize("when", [LATE, EARLY, RANDOM])
@pytest.mark.parametrize("swizzle", [0, 1, 2, 3])
def test_tiled_loads_and_stores(library, swizzle, when):
    """A box that hangs over two edges: zeros outside; rows a swizzle apart; then stored elsewhere."""
    x, y = np.arange(1, 10 * 40 + 1, dtype=np.float32).reshape(10, 40), np.zeros((10, 40), np.float32)
    columns, rows = 8, 8
    pitch = 16 << swizzle if swizzle else 4 * columns
    load = "2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r2], [%d2, {%r5, %r6}], [%r3];"
    body = "mov.b64 %d9, map; mov.u32 %r5, 36; mov.u32 %r6, 5;" + LOAD.replace(
        "{bytes}", str(rows * columns * 4)
    ).replace("{load}", load)
    body += f"""setp.lt.u32 %p3, %r0, {rows * columns}; mov.u32 %r30, 0;
    div.u32 %r7, %r0, {columns}; rem.u32 %r8, %r0, {columns}; mul.lo.u32 %r9, %r7, {pitch};
    mad.lo.u32 %r9, %r8, 4, %r9; add.u32 %r9, %r9, %r2; shr.u32 %r10, %r9, 7;
    and.b32 %r10, %r10, {(1 << swizzle) - 1}; shl.b32 %r10, %r10, 4; xor.b32 %r9, %r9, %r10;
    @%p3 ld.shared.b32 %r30, [%r9];"""
    body += """@!%p1 bra Z; mov.b64 %d3, to; cvta.param.u64 %d3, %d3; fence.proxy.async.shared::cta;
    cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%d3, {%r5, %r6}], [%r2];
    cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0; Z: """
    maps = [bytes(tensor_map(a, [columns, rows], swizzle)) for a in (x, y)]
    out = np.zeros(64, np.float32)
    text = module(
        OWN + body + "st.global.b32 [%d0], %r30;",
        ("out", "px", "py", ".param .align 64 .b8 map[128]", ".param .align 64 .b8 to[128]"),
        outside=BAR,
    )
    Machine(library, text, async_=when).run(out, x, y, *maps, block=64, dynamic=4096)
    want = np.zeros((rows, columns), np.float32)
    want[:5, :4] = x[5:, 36:]
    np.testing.assert_array_equal(out.reshape(rows, columns), want)
    stored = np.zeros_like(y)
    stored[5:, 36:] = x[5:, 36:]
    np.testing.assert_array_equal(y, stored)


@pytest.mark.parametrize("when", [LATE, EARLY])
def test_im2col_loads(library, when):
    """Pixels along rows and images of a bounding box with stride 2, moved by a filter's tap."""
    x = np.arange(1, 2 * 5 * 5 * 4 + 1, dtype=np.float32).reshape(2, 5, 5, 4)
    m = tensor_map(x, [4, 16], im2col=1)
    m.element_stride[:] = [1, 2, 2, 1, 1]
    m.lower[:2], m.upper[:2] = [-1, -1], [-1, -1]
    load = """4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes
    [%r2], [%d2, {%r5, %r6, %r6, %r5}], [%r3], {%h1, %h2};"""
    body = (
        "mov.b64 %d9, map; mov.u32 %r5, 0; mov.u32 %r6, -1; mov.u16 %h1, 2; mov.u16 %h2, 1;"
        + LOAD.replace("{bytes}", "256").replace("{load}", load)
        + "ld.shared.b32 %r30, [%r4];"
    )
    out = np.zeros(64, np.float32)
    Machine(
        library,
        module(
            OWN + body + "st.global.b32 [%d0], %r30;",
            ("out", "px", ".param .align 64 .b8 map[128]"),
            outside=BAR,
        ),
        async_=when,
    ).run(out, x, bytes(m), block=64, dynamic=4096)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    pixels = [padded[n, h + 1, w + 2] for n in range(2) for h in (0, 2, 4) for w in (0, 2, 4)][:16]
    np.testing.assert_array_equal(out.reshape(16, 4), pixels)


@pytest.mark.parametrize("when", [LATE, EARLY])
@pytest.mark.parametrize(("kind", "n"), [("tf32", 8), ("tf32", 64), ("bf16", 16), ("bf16", 96)])
def test_wgmma(library, kind, n, when):
    """K-major operands under a 128-byte swizzle, two steps along K, the first without its addend."""
    size = 4 if kind == "tf32" else 2
    depth = 2 * 32 // size
    rng = np.random.default_rng(5)
    a, b = (
        rng.integers(-4, 5, (64, depth)).astype(np.float32),
        rng.integers(-4, 5, (n, depth)).astype(np.float32),
    )

    def laid_out(m):  # rows of 128 bytes, chunks of 16 exchanged by the row
        raw = (m if size == 4 else bf16(m)).view(np.uint8).reshape(len(m), -1)
        image = np.zeros((-(-len(m) // 8) * 8, 8, 16), np.uint8)
        for r in range(len(m)):
            for chunk in range(raw.shape[1] // 16):
                image[r, chunk ^ r % 8] = raw[r, 16 * chunk : 16 * chunk + 16]
        return image.reshape(-1)

    image = np.concatenate([laid_out(a), laid_out(b)]).view(np.uint32)
    sums = ", ".join(f"%r{30 + i}" for i in range(n // 2))
    immediates = "1, 1" + (", 0, 0" if size == 2 else "")
    step = "wgmma.mma_async.sync.aligned.m64n{}k{}.f32.{}.{} {{{}}}, %d5, %d6, {}, {};"
    steps = [step.format(n, 32 // size, kind, kind, sums, p, immediates) for p in ("%p4", "%p5")]
    body = f"""mov.u32 %r2, window; add.u32 %r2, %r2, 1023; and.b32 %r2, %r2, -1024;
    ld.param.u64 %d2, [image]; mov.u32 %r3, %r0;
    L: mul.wide.u32 %d3, %r3, 4; add.u64 %d3, %d3, %d2; ld.global.b32 %r4, [%d3];
    mad.lo.u32 %r5, %r3, 4, %r2; st.shared.b32 [%r5], %r4; add.u32 %r3, %r3, 128;
    setp.lt.u32 %p1, %r3, {len(image)}; @%p1 bra L; fence.proxy.async.shared::cta; bar.sync 0;
    shr.u32 %r6, %r2, 4; cvt.u64.u32 %d5, %r6; or.b64 %d5, %d5, {1 << 62 | 64 << 32 | 1 << 16};
    add.u64 %d6, %d5, {64 * 128 // 16};
    setp.ne.u32 %p4, %r0, %r0; setp.eq.u32 %p5, %r0, %r0; wgmma.fence.sync.aligned; {steps[0]}
    add.u64 %d5, %d5, 2; add.u64 %d6, %d6, 2; {steps[1]} wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 0;
    mad.wide.u32 %d0, %r0, {2 * n - 4}, %d0;"""
    body += "".join(f"st.global.b32 [%d0+{4 * i}], %r{30 + i};" for i in range(1, n // 2))
    got = words(
        library, body, 128, ("out", "image"), [image], BAR, 1024 + 4 * len(image), count=n // 2, async_=when
    ).view(np.float32)
    t, i = np.arange(128)[:, None], np.arange(n // 2)[None]
    rows, columns = t // 32 * 16 + t % 32 // 4 + i // 2 % 2 * 8, i // 4 * 8 + t % 4 * 2 + i % 2
    np.testing.assert_array_equal(got.reshape(128, -1), (a @ b.T)[rows, columns])
