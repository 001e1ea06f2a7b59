"""Small PTX kernels for the executor's tests, and the arithmetic they are compared with."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

REGISTERS = """.reg .pred %p<16>; .reg .b16 %h<32>; .reg .b32 %r<160>; .reg .b64 %d<64>;"""


def module(body: str, params=("out",), target="sm_90a", outside="", directives="") -> str:
    """A module of one kernel `k` with u64 parameters of these names (or whole declarations)."""
    declared = ",\n".join(p if "." in p else f".param .u64 {p}" for p in params)
    return (
        f".version 8.4\n.target {target}\n.address_size 64\n{outside}\n"
        f".visible .entry k(\n{declared})\n{directives}{{\n{REGISTERS}\n{body}\nret;\n}}\n"
    )


def width(kind: str) -> int:
    return {"pred": 8, "f16x2": 32, "bf16x2": 32, "bf16": 16, "tf32": 32}.get(kind) or int(kind[1:])


def numpy_type(kind: str):
    if kind in ("f32", "f64"):
        return np.dtype(f"f{kind[1:3]}".replace("32", "4").replace("64", "8"))
    return np.dtype(f"{'i' if kind[0] == 's' else 'u'}{width(kind) // 8}")


def one_instruction(form: str, sources: list[str], result: str, text: str | None = None) -> str:
    """A kernel `k`(out, in0, ...) that does an instruction once a thread, elements by their thread's index.

    `text` holds the operands in other than the usual way, with {d}, {0}, {1}, ...
    """
    prefix = {8: "%h", 16: "%h", 32: "%r", 64: "%d"}
    lines = [
        "mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.x; mad.lo.u32 %r0, %r0, %r1, %r2;"
    ]
    names = []
    for i, kind in enumerate(sources):
        bits = width(kind)
        lines.append(
            f"ld.param.u64 %d{i}, [in{i}]; mul.wide.u32 %d20, %r0, {bits // 8}; add.u64 %d{i}, %d{i}, %d20;"
        )
        if kind == "pred":
            lines.append(f"ld.global.u8 %h{10 + i}, [%d{i}]; setp.ne.u16 %p{i}, %h{10 + i}, 0;")
            names.append(f"%p{i}")
        else:
            names.append(f"{prefix[bits]}{10 + i}")
            lines.append(f"ld.global.{'u8' if bits == 8 else f'b{bits}'} {names[-1]}, [%d{i}];")
    bits = width(result)
    d = "%p15" if result == "pred" else f"{prefix[bits]}30"
    lines.append(text.format(*names, d=d) if text else f"{form} {', '.join([d, *names])};")
    if result == "pred":
        d = "%h30"
        lines.append("selp.u16 %h30, 1, 0, %p15;")
    lines.append(f"ld.param.u64 %d40, [out]; mul.wide.u32 %d41, %r0, {bits // 8}; add.u64 %d40, %d40, %d41;")
    lines.append(f"st.global.{'u8' if bits == 8 else f'b{bits}'} [%d40], {d};")
    return module("\n".join(lines), ["out", *(f"in{i}" for i in range(len(sources)))])


# ---------------------------------------------------------------- numbers

_RANDOM = np.random.default_rng(20)


def samples(kind: str, count=1024) -> np.ndarray:
    """Numbers of a type: the odd ones, each against each as the seed has it, and random ones."""
    if kind == "pred":
        return _RANDOM.integers(0, 2, count).astype(np.uint8)
    if kind in ("f32", "f64"):
        t = numpy_type(kind)
        info = np.finfo(t)
        odd = [
            0,
            1,
            1.5,
            2,
            2.5,
            3.5,
            0.5,
            info.max,
            info.tiny,
            info.smallest_subnormal,
            1e-3,
            3e9,
            np.inf,
            np.nan,
            126.5,
        ]
        odd = np.array(odd + [-x for x in odd], t)
        scale = np.exp(_RANDOM.uniform(-20, 20, count))
        values = (_RANDOM.standard_normal(count) * scale).astype(t)
    else:
        t = numpy_type(kind)
        bits = 8 * t.itemsize
        odd = [
            0,
            1,
            2,
            3,
            7,
            31,
            32,
            33,
            63,
            64,
            255,
            (1 << bits - 1) - 1,
            1 << bits - 1,
            (1 << bits) - 1,
            0x55,
        ]
        odd = np.array([x & (1 << bits) - 1 for x in odd], f"u{t.itemsize}").view(t)
        values = np.frombuffer(_RANDOM.bytes(count * t.itemsize), t).copy()
    values[: count // 2] = _RANDOM.choice(odd, count // 2)
    return values


def bits_of(values: np.ndarray) -> np.ndarray:
    return values.view(f"u{values.dtype.itemsize}")


def wrap(value: int, kind: str) -> int:
    """An integer cut to a type."""
    bits = width(kind)
    value &= (1 << bits) - 1
    return value - (1 << bits) if kind[0] == "s" and value >> bits - 1 else value


def round_float(exact: Fraction, mode: str, digits=24, least=-149, most=128) -> float:
    """The nearest float32 (or of other extents) as a mode of PTX has it: rn, rz, rm, rp, rna."""
    if exact == 0:
        return 0.0
    sign, size = (-1, -exact) if exact < 0 else (1, exact)
    e = size.numerator.bit_length() - size.denominator.bit_length()
    e += 0 if Fraction(2) ** e > size else 1  # size < 2^e
    if Fraction(2) ** (e - 1) > size:
        e -= 1
    ulp = Fraction(2) ** max(e - digits, least)
    whole, rest = divmod(size, ulp)
    half = rest / ulp
    up = {"rz": False, "rm": sign < 0, "rp": sign > 0, "rna": half >= Fraction(1, 2)}.get(mode)
    if mode == "rn":
        up = half > Fraction(1, 2) or (half == Fraction(1, 2) and whole % 2 == 1)
    whole += bool(up and rest)
    value = whole * ulp
    if value >= Fraction(2) ** most:
        largest = (2 - Fraction(2) ** (1 - digits)) * Fraction(2) ** (most - 1)
        inward = mode == "rz" or (mode == "rm" and sign > 0) or (mode == "rp" and sign < 0)
        return sign * (float(largest) if inward else math.inf)
    return sign * float(value)
