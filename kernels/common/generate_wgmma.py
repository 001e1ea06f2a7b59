"""Writes wgmma_device.h: one struct of inline PTX per tile width; PTX wants every register spelled.

Usage: python kernels/common/generate_wgmma.py [--check]
"""

import sys
from pathlib import Path

TARGET = Path(__file__).with_name("wgmma_device.h")
WIDTHS = (48, 64, 96, 128, 192, 256)
# Both operands from shared memory, or A from four registers; bf16 has immediates for what is MN-major.
HEAD = r"""// wgmma_device.h: written by generate_wgmma.py; do not edit
#pragma once
// clang-format off
namespace pcn {
namespace detail {
template <int N> struct Wgmma;
// D: the accumulators' names; I0 to I7: those of the inputs; ...: the accumulators as operands.
#define PCN_WGMMA_TEXT(N, TYPES, D, A, B, P, TRANSPOSED) \
  "{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n" \
  "wgmma.mma_async.sync.aligned.m64n" #N TYPES " {" D "}, " A ", " B ", p, 1, 1" TRANSPOSED ";\n}\n"
#define PCN_WGMMA(N, D, I0, I1, I2, I3, I4, I5, I6, ...) \
  template <> struct Wgmma<N> { \
    static PCN_FN void tf32(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) { \
      asm volatile(PCN_WGMMA_TEXT(N, "k8.f32.tf32.tf32", D, I0, I1, I2, "") \
                   : __VA_ARGS__ : "l"(a), "l"(b), "r"(accumulate)); \
    } \
    static PCN_FN void tf32(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) { \
      asm volatile(PCN_WGMMA_TEXT(N, "k8.f32.tf32.tf32", D, "{" I0 ", " I1 ", " I2 ", " I3 "}", I4, I5, "") \
                   : __VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate)); \
    } \
    template <int A_MN, int B_MN> \
    static PCN_FN void bf16(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) { \
      asm volatile(PCN_WGMMA_TEXT(N, "k16.f32.bf16.bf16", D, I0, I1, I2, ", " I3 ", " I4) \
                   : __VA_ARGS__ : "l"(a), "l"(b), "r"(accumulate), "n"(A_MN), "n"(B_MN)); \
    } \
    template <int B_MN> \
    static PCN_FN void bf16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) { \
      asm volatile(PCN_WGMMA_TEXT(N, "k16.f32.bf16.bf16", D, "{" I0 ", " I1 ", " I2 ", " I3 "}", I4, I5, \
                                  ", " I6) \
                   : __VA_ARGS__ \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(B_MN)); \
    } \
  };
"""
TAIL = """\
#undef PCN_WGMMA
#undef PCN_WGMMA_TEXT
}  // namespace detail
}  // namespace pcn
// clang-format on
"""


def lines(items: list[str], between: str, indent: str, per_line: int) -> str:
    """The items, `per_line` on a line."""
    rows = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
    return (between + "\n" + indent).join(rows)


def struct(n: int) -> str:
    """The specialisation for tiles of 64 x n."""
    count = n // 2
    names = lines([f"%{i}" for i in range(count)], ', "', '          "', 16)
    inputs = ", ".join(f'"%{count + i}"' for i in range(7))
    operands = lines([f'"+f"(d[{i}])' for i in range(count)], ",", " " * 10, 8)
    return f'PCN_WGMMA({n}, "{names}",\n          {inputs},\n          {operands})\n'


def generate() -> str:
    """The whole file."""
    return HEAD + "".join(struct(n) for n in WIDTHS) + TAIL


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text() == generate() else f"{TARGET} is not what generate_wgmma.py writes")
    TARGET.write_text(generate())
