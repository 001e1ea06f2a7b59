"""The executor of PTX reads all of a module, refuses what breaks a rule, and says where."""

from __future__ import annotations

import numpy as np
import pytest
from support.executor import Fault, Machine
from support.ptx_text import module
from test_executor_warps import BAR, LOAD, OWN, SHARED, tensor_map

STORE = "st.global.b32 [%d0], %r30;"
S = "mov.u32 %r2, s; shl.b32 %r3, %r0, 2; add.u32 %r4, %r2, %r3;"  # this thread's word of s
X = "ld.param.u64 %d2, [x]; mul.wide.u32 %d3, %r0, 4; add.u64 %d2, %d2, %d3;"  # this thread's of x
W = "mov.u32 %r2, window; mov.u32 %r3, bar; "
INIT = W + "setp.eq.u32 %p1, %r0, 0; @%p1 mbarrier.init.shared::cta.b64 [%r3], 1; "
COPY = X + S + "cp.async.ca.shared.global [%r4], [%d2], 4; cp.async.commit_group;"
WGMMA = """mov.u32 %r2, window; add.u32 %r2, %r2, 1023; and.b32 %r2, %r2, -1024; shr.u32 %r6, %r2, 4;
    cvt.u64.u32 %d5, %r6;
or.b64 %d5, %d5, 0x4000004000010000; setp.eq.u32 %p4, %r0, 999; mov.u32 %r30, 0;
{} wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {{%r30, %r31, %r32, %r33}}, %d5, %d5, %p4, 1, 1; {}"""

FAULTS = {
    "global out of bounds": (
        X + "ld.global.b32 %r30, [%d2+4];",
        32,
        r"thread \(31,0,0\): read of 4 bytes of global memory out of bounds.*128 bytes",
    ),
    "global before the beginning": (
        X + "ld.global.b32 %r30, [%d2+-4];",
        32,
        r"thread \(0,0,0\): read of 4 bytes of global",
    ),
    "last bytes of a vector": (
        X + "and.b64 %d2, %d2, -16; ld.global.v4.b32 {%r30, %r31, %r32, %r33}, [%d2+16];",
        32,
        "read of 16 bytes",
    ),
    "null": ("mov.u64 %d2, 0; ld.global.b32 %r30, [%d2];", 32, "out of bounds, at 0x0"),
    "misaligned": (
        X + "ld.global.v2.b32 {%r30, %r31}, [%d2+-4];",
        32,
        r"thread \(0,0,0\): misaligned read: .* not a multiple of 8",
    ),
    "misaligned shared": (S + "st.shared.b32 [%r4+2], %r0;", 32, "misaligned write"),
    "constant array": (X + "st.global.b32 [%d2], %r0;", 32, "read-only"),
    "unknown parameter space": ("ld.param.u32 %r30, [more];", 32, "unknown name 'more'"),
    "beyond the parameters": (
        "mov.b64 %d2, out; ld.param.u32 %r30, [%d2+16];",
        32,
        "parameters|param memory out of bounds",
    ),
    "fresh memory": ("ld.global.b32 %r30, [%d0];", 32, "global memory is undefined; .*nothing has written"),
    "fresh shared memory": (
        S + "ld.shared.b32 %r30, [%r4];",
        32,
        "global memory is undefined; .*line 14.*nothing has written",
    ),
    "fresh local memory": (".local .align 4 .b8 l[8]; ld.local.b32 %r30, [l+4];", 32, "is undefined"),
    "fresh register": ("add.u32 %r30, %r90, 1;", 32, "is undefined"),
    "undefined address": (
        "mul.wide.u32 %d3, %r90, 4; add.u64 %d3, %d3, %d0; ld.global.b32 %r30, [%d3];",
        32,
        "an address is undefined",
    ),
    "undefined branch": (
        "setp.eq.u32 %p1, %r90, 1; mov.u32 %r30, 1; @%p1 bra E; E:",
        32,
        "predicate that decides whether to execute is undefined",
    ),
    "half a word": (
        S + "mov.u16 %h1, 1; st.shared.b16 [%r4], %h1; ld.shared.b32 %r30, [%r4];",
        32,
        "is undefined",
    ),
    "division by zero": ("mov.u32 %r3, 0; div.u32 %r30, %r0, %r3;", 32, "is undefined; .*division by zero"),
    "shared past its end": (
        S + "st.shared.b32 [%r4+900], %r0;",
        64,
        r"thread \(31,0,0\): write of 4 bytes of shared memory out of bounds.*\(s\)",
    ),
    "dynamic past its end": (
        "mov.u32 %r2, window; st.shared.b32 [%r2+16384], %r0;",
        32,
        "dynamic shared memory",
    ),
    "generic address taken for a shared one": (
        "mov.u64 %d4, s; cvta.shared.u64 %d4, %d4; cvt.u32.u64 %r2, %d4; st.shared.b32 [%r2], %r0;",
        32,
        "out of bounds",
    ),
    "shared address taken for a generic one": ("mov.u64 %d4, s; st.b32 [%d4], %r0;", 32, "out of bounds"),
    "conversion of another space": ("cvta.to.shared.u64 %d4, %d0;", 32, "another state space"),
    "divergent barrier": (
        "mov.u32 %r30, 0; setp.lt.u32 %p1, %r0, 16; @%p1 bra A; bar.sync 0; bra E; A: bar.sync 0; E:",
        32,
        "never are.*others of its warp wait at line",
    ),
    "barrier after an exit": ("setp.eq.u32 %p1, %r0, 3; @%p1 exit; bar.sync 0;", 32, "have ended"),
    "barrier without some warps": (
        "setp.ge.u32 %p1, %r0, 32; @%p1 exit; bar.sync 0;",
        64,
        "deadlock: warp 0 waits in barrier 0 at line .*warp 1 has ended",
    ),
    "barrier under a predicate": (
        "setp.eq.u32 %p1, %r0, 3; @%p1 bar.sync 0;",
        32,
        "kept out by the predicate",
    ),
    "barrier of 33 threads": ("bar.sync 1, 33;", 64, "no multiple of 32"),
    "barrier of two counts": (
        "setp.lt.u32 %p1, %r0, 32; selp.b32 %r2, 96, 64, %p1; bar.sync 1, %r2;",
        96,
        "where others said 96",
    ),
    "shuffle without some lanes": (
        "mov.u32 %r30, 0; setp.lt.u32 %p1, %r0, 16; @!%p1 bra E; shfl.sync.idx.b32 %r30, %r0, 0, 31, -1; E:",
        32,
        "never are|have ended",
    ),
    "shuffle from outside": (
        "mov.u32 %r30, 0; setp.lt.u32 %p1, %r0, 16; @!%p1 bra E; "
        "shfl.sync.idx.b32 %r30, %r0, 20, 31, 0xffff; E:",
        32,
        "is undefined; .*does not take part",
    ),
    "shuffle of others": (
        "shfl.sync.idx.b32 %r30, %r0, 0, 31, 0xffff;",
        32,
        r"thread \(16,0,0\): is not among",
    ),
    "uniform branch that is not": ("setp.eq.u32 %p1, %r0, 3; @%p1 bra.uni E; E:", 32, "bra.uni"),
    "trap": ("trap;", 32, r"\[trap;\], block \(0,0,0\), thread \(0,0,0\): trap"),
    "loop without end": ("L: bra L;", 32, "loop without end"),
    "copy not waited for": (COPY + "ld.shared.b32 %r30, [%r4];", 32, "is undefined; .*copy not waited for"),
    "one group too many under way": (
        COPY + "cp.async.wait_group 1; ld.shared.b32 %r30, [%r4];",
        32,
        "is undefined",
    ),
    "copy not committed": (
        COPY.replace("cp.async.commit_group;", "cp.async.wait_group 0;") + "ld.shared.b32 %r30, [%r4];",
        32,
        "is undefined",
    ),
    "copy out of bounds": (
        COPY.replace("%d2], 4", "%d2+4], 4"),
        32,
        "read of 4 bytes of global memory out of bounds",
    ),
    "copy of 16 misaligned": (
        COPY.replace("ca.shared.global [%r4], [%d2], 4", "cg.shared.global [%r4], [%d2], 16"),
        32,
        "misaligned",
    ),
    "ldmatrix of undefined rows": (
        "mov.u32 %r2, s; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r30}, [%r2];",
        32,
        "is undefined; .*of matrix 0",
    ),
    "ldmatrix misaligned": (
        "mov.u32 %r2, s; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r30}, [%r2+8];",
        32,
        "not a multiple of 16",
    ),
    "no such mbarrier": (W + "mbarrier.arrive.shared::cta.b64 _, [%r3];", 32, "no initialised mbarrier"),
    "too many arrivals": (
        INIT + "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 16;",
        32,
        "more arrivals at the mbarrier than the 1",
    ),
    "mbarrier in vain": (
        INIT + "bar.sync 0; T: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0; @!%p2 bra T;",
        64,
        "deadlock: warp 0 tests in vain",
    ),
    "more bytes expected than come": (
        INIT + "@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 16; bar.sync 0; "
        "T: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0; @!%p2 bra T;",
        32,
        "deadlock",
    ),
    "wgmma without its fence": (WGMMA.format("", ""), 128, "without wgmma.fence"),
    "wgmma of undefined memory": (
        WGMMA.format(
            "wgmma.fence.sync.aligned;", "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
        ),
        128,
        "is undefined; .*row",
    ),
    "wgmma not waited for": (
        WGMMA.format("wgmma.fence.sync.aligned;", ""),
        128,
        "is undefined; .*not been waited for",
    ),
    "wgmma of registers written after the fence": (
        WGMMA.format(
            "wgmma.fence.sync.aligned; mov.u32 %r31, 0;",
            "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
        ),
        128,
        "%r31, is written between wgmma.fence and it",
    ),
    "wgmma in the middle of a pattern": (
        WGMMA.format(
            "add.u64 %d5, %d5, 8; wgmma.fence.sync.aligned;",
            "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
        ),
        128,
        "middle of its swizzle",
    ),
    "wgmma of an unfenced store": (
        WGMMA.format(
            "st.shared.b32 [%r2], %r0; wgmma.fence.sync.aligned;",
            "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
        ),
        128,
        "without fence.proxy.async",
    ),
    "unknown opcode": (
        "frobnicate.u32 %r30, %r0;",
        32,
        r"test.ptx:\d+: unknown form 'frobnicate.u32' \[frobnicate.u32 %r30, %r0;\]",
    ),
    "unknown modifier": ("add.cc.u32 %r30, %r0, 1;", 32, "unknown form 'add.cc.u32'"),
    "unknown type": ("abs.u32 %r30, %r0;", 32, "unknown form"),
    "register of another width": (
        "add.u64 %r30, %r0, 1;",
        32,
        "'%r30' has 32 bits, the instruction wants 64 bits",
    ),
    "unknown register": ("add.u32 %r30, %q0, 1;", 32, "register or a constant"),
    "unknown label": ("bra NOWHERE;", 32, "unknown label 'NOWHERE'"),
    "operand missing": ("add.u32 %r30, %r0;", 32, "takes 3 operands"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(library, name):
    body, block, pattern = FAULTS[name]
    x, out = np.zeros(32 if block == 32 else 1024, np.uint32), np.zeros(block, np.uint32)
    outside = SHARED + "\n.shared .align 8 .b64 bar;"
    with pytest.raises(Fault, match=f"(?s){pattern}"):
        Machine(
            library,
            module(OWN + "\n" + body + "\n" + STORE, ("out", "x"), outside=outside),
            max_instructions=5000,
        ).run(out, x, block=block, dynamic=16384, fresh=[out], constant=[x])


def test_what_is_allowed(library):
    """Undefined values that are moved, computed with and dropped; a copy's bytes in mode early."""
    body = (
        S
        + """ld.shared.b32 %r5, [%r4]; add.u32 %r6, %r5, 1; st.shared.b32 [%r4], %r6; setp.eq.u32 %p2, %r6, 1;
    setp.lt.u32 %p1, %r0, 1000; or.pred %p3, %p1, %p2; mov.u32 %r30, 5; @!%p3 mov.u32 %r30, %r6;
    selp.b32 %r30, %r30, %r6, %p1;"""
    )
    out = np.zeros(32, np.uint32)
    Machine(library, module(OWN + body + STORE, ("out", "x"), outside=SHARED)).run(out, out, fresh=[out])
    assert (out == 5).all()
    x = np.arange(32, dtype=np.uint32)
    Machine(
        library,
        module(OWN + COPY + "ld.shared.b32 %r30, [%r4];" + STORE, ("out", "x"), outside=SHARED),
        async_=1,
    ).run(out, x)
    assert (out == x).all()


LOADED = "mov.b64 %d9, map; mov.u32 %r5, 0; mov.u32 %r30, 0;" + LOAD.replace("{bytes}", "256")
TILE = "2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r2], [%d2, {%r5, %r5}], [%r3];"
STORED = """st.shared.b32 [%r4], %r0; {} bar.sync 0; mov.b64 %d2, map; cvta.param.u64 %d2, %d2;
@%p1 cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%d2, {{%r5, %r5}}], [%r2]; {}"""
COMMITTED = "@%p1 cp.async.bulk.commit_group; @%p1 cp.async.bulk.wait_group.read 0;"
BULK = {
    "initialisation not fenced": (
        LOADED.replace("{load}", TILE).replace("fence.mbarrier_init.release.cluster;", ""),
        "has not been fenced",
    ),
    "not waited for": (
        LOADED.replace("{load}", TILE).replace("@!%p2 bra T;", "") + "ld.shared.b32 %r30, [%r4];",
        "is undefined|under way",
    ),
    "misaligned": (LOADED.replace("{load}", TILE.replace("[%r2]", "[%r2+64]")), "not a multiple of 128"),
    "another rank": (
        LOADED.replace("{load}", TILE.replace("2d", "3d").replace("{%r5", "{%r5, %r5")),
        "another rank",
    ),
    "no map": (
        LOADED.replace("{load}", TILE.replace("[%d2, ", "[%d0, ")),
        "misaligned|no tensor map|out of bounds",
    ),
    "too few bytes expected": (LOADED.replace("{load}", TILE).replace(", 256;", ", 128;"), "deadlock"),
    "store not fenced": (
        LOADED.replace("{load}", TILE) + STORED.format("", COMMITTED),
        "without fence.proxy.async",
    ),
    "store not waited for": (
        LOADED.replace("{load}", TILE) + STORED.format("fence.proxy.async.shared::cta;", ""),
        "may still read",
    ),
    "store before the fence": (
        LOADED.replace("{load}", TILE) + STORED.format("@%p1 fence.proxy.async.shared::cta;", COMMITTED),
        "without fence.proxy.async",
    ),
}


@pytest.mark.parametrize("name", BULK)
def test_bulk_copies(library, name):
    body, pattern = BULK[name]
    x, out = np.ones((8, 8), np.float32), np.zeros(64, np.uint32)
    text = module(OWN + body + STORE, ("out", "x", ".param .align 64 .b8 map[128]"), outside=BAR)
    with pytest.raises(Fault, match=f"(?s){pattern}"):
        Machine(library, text, max_instructions=5000).run(
            out, x, bytes(tensor_map(x, [8, 8])), block=64, dynamic=4096
        )


LAUNCHES = [
    ({"block": 64}, r"64 threads, the kernel is compiled for 32"),
    ({"block": 2048}, "block beyond the limits"),
    ({"grid": (1, 70000)}, "grid beyond the limits"),
    ({"grid": 0}, "or empty"),
    ({"dynamic": 227 * 1024}, "bytes of shared memory, there are 232448"),
    ({"kernel": "other"}, "no kernel other"),
]


@pytest.mark.parametrize(("launch", "pattern"), LAUNCHES)
def test_launches(library, launch, pattern):
    out = np.zeros(64, np.uint32)
    machine = Machine(
        library, module(OWN + S + "mov.u32 %r30, 0;" + STORE, outside=SHARED, directives=".maxntid 32\n")
    )
    with pytest.raises(Fault, match=pattern):
        machine.run(out, **launch)
    with pytest.raises(Fault, match="12 bytes of parameters, not 8"):
        machine.run(out, 1)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (".version 8.0\n.target sm_80\n.frobnicate 1;", "test.ptx:3: unknown directive '.frobnicate'"),
        (".global .b32 x[2] = {1, 2, 3};", "more initial values"),
        (".entry k() { mov.u32 %r1, 1 }", "',' or ';' expected"),
        (".entry k() { L: L: ret; }", "label 'L' twice"),
        (".entry k() { ret;", "'}' missing"),
        (".extern .global .b32 elsewhere;", "another module"),
    ],
)
def test_texts(library, text, pattern):
    with pytest.raises(Fault, match=pattern):
        Machine(library, text)


def test_faults_name_the_first_block(library):
    body = "mov.u32 %r2, %ctaid.x; setp.ge.u32 %p1, %r2, 5; @%p1 trap; mov.u32 %r30, 0;"
    with pytest.raises(Fault, match=r"kernel k, test.ptx:\d+ .*block \(5,0,0\), thread \(0,0,0\): trap"):
        Machine(library, module(OWN + body + STORE)).run(np.zeros(32, np.uint32), grid=9)


def test_module_of_every_kind_of_line(library):
    """Directives, comments, nested scopes with registers of their own, initialised variables."""
    outside = """
    .extern .func (.param .b32 r) other (.param .b64 a);
    .const .align 4 .b32 table[4] = {1, -2, 0x10, 0b11};
    .global .align 8 .b8 bytes[3] = {7, 8, 9}; .global .f32 one = 0f3F800000;
    """
    body = """/* a comment
    of two lines */ .pragma "nounroll";
    ld.const.s32 %r1, [table+4]; // the second
    { .reg .b32 %r1; mov.u32 %r1, 5; { .reg .pred p; setp.eq.u32 p, %r1, 5; selp.b32 %r2, 1, 0, p; } }
    ld.global.u8 %r3, [bytes+2]; ld.global.u32 %r4, [one];
    ld.param.u64 %d1, [out];
    st.global.v4.b32 [%d1], {%r1, %r2, %r3, %r4};
    """
    out = np.zeros(4, np.int32)
    machine = Machine(
        library, module(body, outside=outside, directives=".maxntid 32, 1, 1\n.minnctapersm 2\n")
    )
    machine.run(out, block=1)
    assert out.tolist() == [-2, 1, 9, 0x3F800000]
    info = machine.info("k")
    assert (info["max_threads"], info["min_blocks"], info["param_bytes"], info["target"]) == (32, 2, 8, 90)
    assert machine.global_bytes("bytes").tolist() == [7, 8, 9]
