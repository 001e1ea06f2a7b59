"""The faults that tests/ptx/test_planted.py plants in what nvcc alone compiles: the emulator sees none."""

from __future__ import annotations

from dataclasses import dataclass

PRIMITIVES = "kernels/common/primitives_device.h"
DEVICE = "kernels/common/device.h"
MAPS = "kernels/common/tensor_map.h"
WGMMA = "kernels/common/wgmma_device.h"
PROBE = "tests/support/emulator/primitives_launch.h"


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Attributes
    ----------
    plants : what is wrong
    file : from the repository's root
    old, new : the text, which occurs exactly once, and what takes its place
    cases : of primitives.cu, each of which must notice it
    host : whether the host's code changes too, and has to be compiled
    """

    plants: str
    file: str
    old: str
    new: str
    cases: tuple[str, ...]
    host: bool = False


def _primitive(plants: str, old: str, new: str, *cases: str) -> Fault:
    return Fault(plants, PRIMITIVES, old, new, cases)


FAULTS = [
    # ---- operands of an asm
    _primitive("mma: two registers of A swapped", '"r"(a[1]), "r"(a[2])', '"r"(a[2]), "r"(a[1])', "mma"),
    _primitive("mma: the registers of B swapped", '"r"(b[0]), "r"(b[1])', '"r"(b[1]), "r"(b[0])', "mma"),
    _primitive(
        "mma: sums written to the wrong registers", "{%0,%1,%2,%3}, {%4,%5", "{%0,%2,%1,%3}, {%4,%5", "mma"
    ),
    _primitive("mma: halves taken for bfloat16", '"f32.f16.f16.f32"', '"f32.bf16.bf16.f32"', "mma"),
    _primitive(
        "ldmatrix x4: two matrices swapped", '"=r"(r[1]), "=r"(r[2])', '"=r"(r[2]), "=r"(r[1])', "ldmatrix"
    ),
    _primitive(
        "ldmatrix: .trans left out", 'PCN_LDMATRIX(_trans, ".trans")', 'PCN_LDMATRIX(_trans, "")', "ldmatrix"
    ),
    _primitive(
        "cp.async: the predicate the wrong way round",
        "predicate ? BYTES : 0;",
        "predicate ? 0 : BYTES;",
        "cp_async",
    ),
    _primitive("cp.async: 8 bytes copied as 4", "cp_async_8, 8,", "cp_async_8, 4,", "cp_async"),
    _primitive(
        "bar.sync: barrier and threads swapped",
        'bar.sync %0, %1;" ::"r"(id), "r"(threads)',
        'bar.sync %0, %1;" ::"r"(threads), "r"(id)',
        "named_barrier",
    ),
    _primitive(
        "bar.arrive: a thread too many",
        '"bar.arrive %0, %1;" ::"r"(id), "r"(threads)',
        '"bar.arrive %0, %1;" ::"r"(id), "r"(threads + 32)',
        "named_barrier",
    ),
    _primitive(
        "mbarrier: a wait that ends while it should go on",
        "p, [%1], %2;\\nselp.u32 %0, 1, 0, p;",
        "p, [%1], %2;\\nselp.u32 %0, 0, 1, p;",
        "mbarrier",
    ),
    _primitive(
        "mbarrier: initialised for one arrival too many", '"r"(count) :', '"r"(count + 1) :', "mbarrier"
    ),
    _primitive("TMA: coordinates swapped", "[%1, {%3, %4}], [%2]", "[%1, {%4, %3}], [%2]", "tma_load_2d"),
    _primitive(
        "TMA: bytes are not expected",
        '"mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::',
        '"{ .reg .b32 u; mov.b32 u, %1; mbarrier.arrive.shared::cta.b64 _, [%0]; }" ::',
        "tma_load_2d",
    ),
    _primitive(
        "TMA: im2col's offsets swapped",
        "[%2], {%7, %8}",
        "[%2], {%8, %7}",
        "tma_im2col",
    ),
    _primitive(
        "TMA: two coordinates of a store swapped",
        "[%0, {%2, %3}], [%1]",
        "[%0, {%3, %2}], [%1]",
        "tma_store",
    ),
    # ---- volatile, memory clobbers
    _primitive(
        "ldmatrix x4: neither volatile nor a memory clobber",
        """    asm volatile("ldmatrix.sync.aligned.m8n8.x4" TRANS ".shared.b16 {%0,%1,%2,%3}, [%4];" \\
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                         \\
                 : "r"(shared_address(row))                                               \\
                 : "memory");""",
        """    asm("ldmatrix.sync.aligned.m8n8.x4" TRANS ".shared.b16 {%0,%1,%2,%3}, [%4];" \\
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                         \\
                 : "r"(shared_address(row)));""",
        "slot",
    ),
    # ---- addresses of shared memory
    _primitive(
        "shared_address: the generic address cut to 32 bits",
        "static_cast<uint32_t>(__cvta_generic_to_shared(p))",
        "static_cast<uint32_t>(reinterpret_cast<uintptr_t>(p))",
        "cp_async",
        "ldmatrix",
        "mbarrier",
    ),
    # ---- branches on the architecture
    _primitive(
        "cp.async: the commit left empty for this architecture",
        '>= 800\n  asm volatile("cp.async.commit_group',
        '>= 8000\n  asm volatile("cp.async.commit_group',
        "cp_async",
    ),
    _primitive(
        "cp.async: the wait left empty for this architecture",
        '>= 800\n  asm volatile("cp.async.wait_group',
        '>= 8000\n  asm volatile("cp.async.wait_group',
        "cp_async",
        "slot",
    ),
    _primitive(
        "to_tf32: this architecture's branch does not round",
        ">= 800\n  uint32_t r;\n",
        ">= 8000\n  uint32_t r;\n",
        "scalars",
    ),
    _primitive(
        "tensor cores: kTensorCores false for every architecture",
        "__CUDA_ARCH__ >= 10 * kTensorCoresSince",
        "__CUDA_ARCH__ >= 100 * kTensorCoresSince",
        "parameters",
    ),
    _primitive(
        "fence.proxy.async left empty",
        'asm volatile("fence.proxy.async.shared::cta;" ::: "memory");',
        "",
        "tma_store",
    ),
    Fault(
        "philox: the high word of a signed product",
        "kernels/common/philox.h",
        "return __umulhi(a, b);",
        "return static_cast<uint32_t>(__mulhi(static_cast<int>(a), static_cast<int>(b)));",
        ("philox",),
    ),
    Fault(
        "mul_hi: the high word of a signed product",
        DEVICE,
        "return __umulhi(a, b);",
        "return static_cast<uint32_t>(__mulhi(static_cast<int>(a), static_cast<int>(b)));",
        ("parameters",),
    ),
    Fault(
        "rsqrt_normal: the square root itself", DEVICE, "rsqrt.approx.ftz", "sqrt.approx.ftz", ("parameters",)
    ),
    _primitive(
        "to_bf16: cut off, not rounded", "__float2bfloat16_rn(f)", "__float2bfloat16_rz(f)", "scalars"
    ),
    # ---- waits
    _primitive(
        "cp.async: waits for one group too few",
        'cp.async.wait_group %0;" ::"n"(N)',
        'cp.async.wait_group %0;" ::"n"(N + 1)',
        "cp_async",
        "slot",
    ),
    _primitive(
        "wgmma: waits for one group too few",
        'wgmma.wait_group.sync.aligned %0;" ::"n"(N)',
        'wgmma.wait_group.sync.aligned %0;" ::"n"(N + 1)',
        "wgmma_tf32",
        "wgmma_bf16",
    ),
    _primitive(
        "wgmma: the fence left out",
        'asm volatile("wgmma.fence.sync.aligned;" ::: "memory");',
        "",
        "wgmma_tf32",
    ),
    _primitive(
        "wgmma: the compiler may move what is done to the registers past the fence",
        'asm volatile("" : "+f"(registers[i])::"memory");',
        "(void)registers[i];",
        "wgmma_tf32",
        "wgmma_bf16",
    ),
    Fault(
        "wgmma: one operand's major-ness for the other's",
        WGMMA,
        '", " I3 ", " I4)',
        '", " I4 ", " I3)',
        ("wgmma_mn",),
    ),
    Fault(
        "wgmma: B in registers' company always K-major",
        WGMMA,
        '", " I6)',
        '", 0")',
        ("wgmma_registers",),
    ),
    Fault(
        "wgmma: two registers of A swapped in bfloat16",
        WGMMA,
        '"k16.f32.bf16.bf16", D, "{" I0 ", " I1 ", " I2',
        '"k16.f32.bf16.bf16", D, "{" I0 ", " I2 ", " I1',
        ("wgmma_registers",),
    ),
    Fault(
        "wgmma: two registers of A swapped in TF32",
        WGMMA,
        '"k8.f32.tf32.tf32", D, "{" I0 ", " I1 ", " I2',
        '"k8.f32.tf32.tf32", D, "{" I0 ", " I2 ", " I1',
        ("wgmma_registers",),
    ),
    _primitive(
        "TMA: a source overwritten before it was read",
        '"cp.async.bulk.wait_group.read %0;" ::"n"(N)',
        '"cp.async.bulk.wait_group.read %0;" ::"n"(N + 1)',
        "tma_store",
    ),
    _primitive(
        "TMA: a store never committed",
        'asm volatile("cp.async.bulk.commit_group;" ::: "memory");',
        "",
        "tma_store",
    ),
    # ---- Hopper's others
    _primitive(
        "elect: every lane elected",
        '"=r"(elected));\n  return elected;',
        '"=r"(elected));\n  return true;',
        "elect",
    ),
    _primitive(
        "elect: all lanes but one",
        "elect.sync _|p, 0xffffffff;\\nselp.u32 %0, 1, 0",
        "elect.sync _|p, 0xffffffff;\\nselp.u32 %0, 0, 1",
        "elect",
    ),
    _primitive(
        "stmatrix x4: two matrices swapped",
        '".shared.b16 [%0], {%1,%2,%3,%4};"',
        '".shared.b16 [%0], {%1,%3,%2,%4};"',
        "stmatrix",
    ),
    _primitive(
        "stmatrix: .trans left out", 'PCN_STMATRIX(_trans, ".trans")', 'PCN_STMATRIX(_trans, "")', "stmatrix"
    ),
    _primitive(
        "TMA: a coordinate for the cache policy",
        'PCN_COMMA "l"(policy))',
        'PCN_COMMA "l"(policy + 0x5000))',
        "tma_hints",
    ),
    _primitive(
        "prefetch: not of the map", "prefetch.tensormap [%0];", "prefetch.tensormap [%0+64];", "tma_hints"
    ),
    Fault(
        "tensor map: TF32 that is not rounded",
        MAPS,
        "? CU_TENSOR_MAP_DATA_TYPE_TFLOAT32",
        "? CU_TENSOR_MAP_DATA_TYPE_FLOAT32",
        ("tma_tf32",),
        True,
    ),
    # ---- launches
    Fault(
        "launch: half of the dynamic shared memory",
        DEVICE,
        "config.dynamicSmemBytes = dynamic_bytes;",
        "config.dynamicSmemBytes = dynamic_bytes / 2;",
        ("indices", "window"),
        True,
    ),
    Fault(
        "launch: more than 48 KiB without asking",
        DEVICE,
        "asks_for_shared(image.static_bytes, dynamic_bytes)",
        "asks_for_shared(image.static_bytes, dynamic_bytes) && false",
        ("window",),
        True,
    ),
    Fault(
        "launch: grid and block swapped",
        DEVICE,
        "config.gridDim = grid;\n    config.blockDim = block;",
        "config.gridDim = block;\n    config.blockDim = grid;",
        ("indices", "votes"),
        True,
    ),
    Fault(
        "a parameter struct wider on the device",
        PROBE,
        "  float two[2];\n",
        "#ifdef __CUDA_ARCH__\n  double two[2];\n#else\n  float two[2];\n#endif\n",
        ("parameters",),
        True,
    ),
    Fault(
        "a parameter struct packed on the device",
        PROBE,
        "struct Mixed {\n",
        "#ifdef __CUDA_ARCH__\nstruct __attribute__((packed)) Mixed {\n#else\nstruct Mixed {\n#endif\n",
        ("parameters",),
        True,
    ),
    Fault(
        "dynamic_shared: vector accesses four bytes away",
        DEVICE,
        "reinterpret_cast<T*>(dynamic_shared_window)",
        "reinterpret_cast<T*>(dynamic_shared_window + 4)",
        ("window",),
    ),
    # ---- tensor maps
    Fault(
        "tensor map: a swizzle of 64 bytes for 128",
        MAPS,
        "? CU_TENSOR_MAP_SWIZZLE_128B",
        "? CU_TENSOR_MAP_SWIZZLE_64B",
        ("tma_load_4d",),
        True,
    ),
    Fault(
        "tensor map: bfloat16 for float32",
        MAPS,
        ": CU_TENSOR_MAP_DATA_TYPE_FLOAT32;",
        ": CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;",
        ("tma_load_2d",),
        True,
    ),
]
