"""Writes wgmma_device.h: one struct of inline PTX per type and tile width; PTX wants every register spelled.

Usage: python kernels/common/generate_wgmma.py [--check]
"""

import sys
from pathlib import Path

TARGET = Path(__file__).with_name("wgmma_device.h")
WIDTHS = (64, 96, 128, 192, 256)
HEAD = """\
// wgmma_device.h: written by generate_wgmma.py; do not edit
#pragma once
// clang-format off
namespace pcn {
namespace detail {
template <int N> struct WgmmaTf32;
template <int N> struct WgmmaBf16;
"""
TAIL = """\
}  // namespace detail
}  // namespace pcn
// clang-format on
"""


def wrapped(items: list[str], indent: str, per_line: int) -> str:
    """The items, `per_line` on a line."""
    lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
    return (",\n" + indent).join(lines)


def struct(name: str, ptx_type: str, k: int, n: int) -> str:
    """The specialisation for tiles of 64 x n x k. bf16 takes two more immediates: transposed operands."""
    count = n // 2
    registers = [f"%{i}" for i in range(count)]
    lines = [", ".join(registers[i : i + 16]) for i in range(0, count, 16)]
    listed = ', "\n        "'.join(lines)
    outputs = wrapped([f'"+f"(d[{i}])' for i in range(count)], " " * 10, 8)
    transposed = ", 0, 0" if ptx_type == "bf16" else ""
    return f"""\
template <> struct {name}<{n}> {{
  static PCN_FN void issue(float (&d)[{count}], uint64_t a, uint64_t b, int accumulate) {{
    asm volatile("{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{count + 2}, 0;\\n"
        "wgmma.mma_async.sync.aligned.m64n{n}k{k}.f32.{ptx_type}.{ptx_type} {{"
        "{listed}}}, "
        "%{count}, %{count + 1}, p, 1, 1{transposed};\\n}}\\n"
        : {outputs}
        : "l"(a), "l"(b), "r"(accumulate));
  }}
}};
"""


def generate() -> str:
    """The whole file."""
    structs = [struct("WgmmaTf32", "tf32", 8, n) for n in WIDTHS]
    structs += [struct("WgmmaBf16", "bf16", 16, n) for n in WIDTHS]
    return HEAD + "".join(structs) + TAIL


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text() == generate() else f"{TARGET} is not what generate_wgmma.py writes")
    TARGET.write_text(generate())
