"""The executor of PTX, form by form, against exact arithmetic in Python."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from support.executor import Machine
from support.ptx_text import bits_of, numpy_type, one_instruction, round_float, samples, width, wrap

COUNT = 1024


def results(library, source, inputs, result):
    out = np.zeros(COUNT, numpy_type("u8" if result == "pred" else result))
    Machine(library, source).run(out, *inputs, grid=4, block=256, fresh=[out])
    return out


def check(library, form, sources, result, function, text=None):
    inputs = [samples(kind, COUNT) for kind in sources]
    if form[:4] in ("div.", "rem.") and "f" not in form:
        inputs[1][inputs[1] == 0] = 1  # else the result is undefined: test_executor_rules.py
    out = results(library, one_instruction(form, sources, result, text), inputs, result)
    for i, got in enumerate(out):
        arguments = [column[i].item() for column in inputs]
        want = function(*arguments)
        if want is None:  # unspecified
            continue
        want = (
            np.array(want).astype(out.dtype)
            if out.dtype.kind == "f"
            else np.array(wrap(int(want), "u64")).astype(out.dtype)
        )
        same = bits_of(want[None])[0] == bits_of(out[i : i + 1])[0]
        if out.dtype.kind == "f" and np.isnan(want):
            same = np.isnan(got) and (out.dtype.itemsize == 8 or bits_of(out[i : i + 1])[0] == 0x7FFFFFFF)
        assert same, f"{form}{tuple(arguments)} is {got!r}, not {want!r}"


# ---------------------------------------------------------------- integers


def quotient(a, b):
    return abs(a) // abs(b) if (a < 0) == (b < 0) else -(abs(a) // abs(b))


def remainder(a, b):
    return a - b * quotient(a, b)


def reverse(a, bits):
    return int(f"{a:0{bits}b}"[::-1], 2)


def field(a, b, c, kind):
    """bfe, as the ISA's pseudo-code has it."""
    top, position, length = width(kind) - 1, b & 0xFF, c & 0xFF
    raw = a & (1 << top + 1) - 1
    sign = kind[0] == "s" and length and raw >> min(position + length - 1, top) & 1
    d = 0
    for i in range(top + 1):
        d |= (raw >> position + i & 1 if i < length and position + i <= top else int(bool(sign))) << i
    return d


def insert(a, b, c, d, bits):
    position, length = c & 0xFF, d & 0xFF
    for i in range(length):
        if position + i < bits:
            b = b & ~(1 << position + i) | (a >> i & 1) << position + i
    return b


def permute(a, b, c):
    chunk = (b << 32 | a).to_bytes(8, "little")
    d = bytearray(4)
    for i in range(4):
        s = c >> 4 * i & 15
        d[i] = chunk[s & 7] if s < 8 else 0xFF * (chunk[s & 7] >> 7)
    return int.from_bytes(d, "little")


def lookup(a, b, c, table=0xE8):
    return sum((table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i for i in range(32))


INTEGERS = []
for kind in ["s16", "u16", "s32", "u32", "s64", "u64"]:
    bits, double = width(kind), f"{kind[0]}{2 * width(kind)}"
    INTEGERS += [
        (f"add.{kind}", [kind] * 2, kind, lambda a, b: a + b),
        (f"sub.{kind}", [kind] * 2, kind, lambda a, b: a - b),
        (f"mul.lo.{kind}", [kind] * 2, kind, lambda a, b: a * b),
        (f"mul.hi.{kind}", [kind] * 2, kind, lambda a, b, n=bits: a * b >> n),
        (f"mad.lo.{kind}", [kind] * 3, kind, lambda a, b, c: a * b + c),
        (f"mad.hi.{kind}", [kind] * 3, kind, lambda a, b, c, n=bits: (a * b >> n) + c),
        (f"sad.{kind}", [kind] * 3, kind, lambda a, b, c: abs(a - b) + c),
        (f"min.{kind}", [kind] * 2, kind, min),
        (f"max.{kind}", [kind] * 2, kind, max),
        (f"div.{kind}", [kind] * 2, kind, quotient),
        (f"rem.{kind}", [kind] * 2, kind, remainder),
        (f"shr.{kind}", [kind, "u32"], kind, lambda a, b, n=bits: a >> min(b, n)),
    ]
    if bits < 64:
        INTEGERS += [
            (f"mul.wide.{kind}", [kind] * 2, double, lambda a, b: a * b),
            (f"mad.wide.{kind}", [kind] * 2 + [double], double, lambda a, b, c: a * b + c),
        ]
    if kind[0] == "s":
        INTEGERS += [(f"abs.{kind}", [kind], kind, abs), (f"neg.{kind}", [kind], kind, lambda a: -a)]
    if bits > 16:
        INTEGERS += [
            (f"bfe.{kind}", [kind, "u32", "u32"], kind, lambda a, b, c, k=kind: field(a, b, c, k)),
            (f"bfind.{kind}", [kind], "u32", lambda a: (a if a >= 0 else ~a).bit_length() - 1),
        ]
for bits in (16, 32, 64):
    b = f"b{bits}"
    INTEGERS += [
        (f"and.{b}", [b] * 2, b, lambda a, b: a & b),
        (f"or.{b}", [b] * 2, b, lambda a, b: a | b),
        (f"xor.{b}", [b] * 2, b, lambda a, b: a ^ b),
        (f"not.{b}", [b], b, lambda a: ~a),
        (f"cnot.{b}", [b], b, lambda a: a == 0),
        (f"shl.{b}", [b, "u32"], b, lambda a, b, n=bits: a << min(b, n)),
        (f"selp.{b}", [b, b, "pred"], b, lambda a, b, p: a if p else b),
        (f"mov.{b}", [b], b, lambda a: a),
    ]
    if bits > 16:
        INTEGERS += [
            (f"popc.{b}", [b], "u32", lambda a: a.bit_count()),
            (f"clz.{b}", [b], "u32", lambda a, n=bits: n - a.bit_length()),
            (f"brev.{b}", [b], b, lambda a, n=bits: reverse(a, n)),
            (f"bfi.{b}", [b, b, "u32", "u32"], b, lambda a, b, c, d, n=bits: insert(a, b, c, d, n)),
            (f"slct.{b}.s32", [b, b, "s32"], b, lambda a, b, c: a if c >= 0 else b),
        ]
INTEGERS += [
    ("add.sat.s32", ["s32"] * 2, "s32", lambda a, b: max(-(2**31), min(2**31 - 1, a + b))),
    ("sub.sat.s32", ["s32"] * 2, "s32", lambda a, b: max(-(2**31), min(2**31 - 1, a - b))),
    ("bfind.shiftamt.u32", ["u32"], "u32", lambda a: 32 - a.bit_length() if a else -1),
    ("shf.l.wrap.b32", ["b32"] * 3, "b32", lambda a, b, c: (b << 32 | a) << (c & 31) >> 32),
    ("shf.r.wrap.b32", ["b32"] * 3, "b32", lambda a, b, c: (b << 32 | a) >> (c & 31)),
    ("shf.l.clamp.b32", ["b32"] * 3, "b32", lambda a, b, c: (b << 32 | a) << min(c, 32) >> 32),
    ("shf.r.clamp.b32", ["b32"] * 3, "b32", lambda a, b, c: (b << 32 | a) >> min(c, 32)),
    ("prmt.b32", ["b32"] * 3, "b32", permute),
    ("prmt.b32.rc16", ["b32"] * 3, "b32", lambda a, b, c: permute(a, b, 0x3232 if c & 1 else 0x1010)),
    ("and.pred", ["pred"] * 2, "pred", lambda a, b: a & b),
    ("or.pred", ["pred"] * 2, "pred", lambda a, b: a | b),
    ("xor.pred", ["pred"] * 2, "pred", lambda a, b: a ^ b),
    ("not.pred", ["pred"], "pred", lambda a: 1 - a),
    ("mov.pred", ["pred"], "pred", lambda a: a),
]
TEXTS = [
    ("lop3.b32", ["b32"] * 3, "b32", lookup, "lop3.b32 {d}, {0}, {1}, {2}, 0xE8;"),
    ("mov.b32 {a,b}", ["b16"] * 2, "b32", lambda a, b: b << 16 | a, "mov.b32 {d}, {{{0}, {1}}};"),
    ("mov.b64 {a,b}", ["b32"] * 2, "b64", lambda a, b: b << 32 | a, "mov.b64 {d}, {{{0}, {1}}};"),
    ("mov {a,_}, b32", ["b32"], "b16", lambda a: a & 0xFFFF, "mov.b32 {{{d}, %h9}}, {0};"),
    ("mov {_,a}, b64", ["b64"], "b32", lambda a: a >> 32, "mov.b64 {{%r9, {d}}}, {0};"),
    ("guard", ["pred", "u32"], "u32", lambda p, a: a if p else 7, "mov.u32 {d}, 7; @{0} mov.u32 {d}, {1};"),
    (
        "guard !",
        ["pred", "u32"],
        "u32",
        lambda p, a: 7 if p else a,
        "mov.u32 {d}, 7; @!{0} mov.u32 {d}, {1};",
    ),
]


@pytest.mark.parametrize(
    ("form", "sources", "result", "function"), INTEGERS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_integers(library, form, sources, result, function):
    check(library, form, sources, result, function)


@pytest.mark.parametrize(
    ("name", "sources", "result", "function", "text"), TEXTS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_operands(library, name, sources, result, function, text):
    check(library, name, sources, result, function, text)


# ---------------------------------------------------------------- comparisons

COMPARE = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a < b or a > b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


def or_unordered(compare):
    return lambda a, b: compare(a, b) or a != a or b != b


UNORDERED = {f"{name}u": or_unordered(compare) for name, compare in COMPARE.items()}
NAMED = {"num": lambda a, b: a == a and b == b, "nan": lambda a, b: a != a or b != b}
HALVES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32", "s64", "u64", "f32", "f64"])
def test_setp(library, kind):
    names = {**COMPARE, **UNORDERED, **NAMED} if kind[0] == "f" else COMPARE
    for name, function in names.items():
        check(library, f"setp.{name}.{kind}", [kind] * 2, "pred", function)
    for name, same in HALVES.items() if kind[0] == "u" else ():
        check(library, f"setp.{name}.{kind}", [kind] * 2, "pred", COMPARE[same])


@pytest.mark.parametrize("with_", ["and", "or", "xor"])
def test_setp_with_a_predicate(library, with_):
    combine = {"and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b}[with_]
    form, sources = f"setp.lt.{with_}.s32", ["s32", "s32", "pred"]
    check(library, form, sources, "pred", lambda a, b, p: combine(a < b, bool(p)))
    second = f"{form} %p14|{{d}}, {{0}}, {{1}}, !{{2}};"
    check(library, form, sources, "pred", lambda a, b, p: combine(a >= b, not p), second)


def test_setp_flushes(library):
    check(library, "setp.gt.ftz.f32", ["f32"] * 2, "pred", lambda a, b: flush(a) > flush(b))


# ---------------------------------------------------------------- floating point


def flush(x: float) -> float:
    return np.copysign(0.0, x) if abs(x) < 2.0**-126 else x


def exactly(operation, mode="rn"):
    """Round an operation on numbers once to float32; infinities, NaN and zeros are float64's."""

    def function(*arguments):
        with np.errstate(all="ignore"):
            value = operation(*map(np.float64, arguments))
        if not np.all(np.isfinite(arguments)) or not np.isfinite(value) or value == 0:
            exact = 0 if not np.all(np.isfinite(arguments)) else None
            if exact == 0 or (value == 0 and operation(*map(Fraction, arguments)) == 0) or np.isnan(value):
                if value == 0 and mode == "rm" and len(arguments) > 1 and np.all(np.isfinite(arguments)):
                    return None  # the zero's sign depends on the operation
                return value
            if any(x == 0 for x in arguments[-1:]):
                return value  # divided by zero
        return np.copysign(round_float(operation(*map(Fraction, arguments)), mode), value)

    return function


def add(a, b):
    return a + b


def multiply(a, b):
    return a * b


def fused(a, b, c):
    return a * b + c


def divide(a, b):
    return a / b


FLOATS = [
    (f"{op}.{mode}.f32", 2, exactly(f, mode))
    for op, f in (("add", add), ("mul", multiply))
    for mode in ("rn", "rz", "rm", "rp")
]
FLOATS += [(f"fma.{mode}.f32", 3, exactly(fused, mode)) for mode in ("rn", "rz", "rm", "rp")]
FLOATS += [(f"div.{mode}.f32", 2, exactly(divide, mode)) for mode in ("rn", "rz", "rp")]
FLOATS += [
    ("add.f32", 2, exactly(add)),
    ("sub.f32", 2, exactly(lambda a, b: a - b)),
    ("mul.f32", 2, exactly(multiply)),
    ("rcp.rn.f32", 1, exactly(lambda a: 1 / a)),
    ("div.full.f32", 2, exactly(divide)),
    ("add.ftz.f32", 2, lambda a, b: flush(exactly(add)(flush(a), flush(b)))),
    ("mul.ftz.f32", 2, lambda a, b: flush(exactly(multiply)(flush(a), flush(b)))),
    ("fma.rn.ftz.f32", 3, lambda a, b, c: flush(exactly(fused)(flush(a), flush(b), flush(c)))),
    (
        "mul.sat.f32",
        2,
        lambda a, b: (lambda x: min(max(x, 0.0), 1.0) if x > 0 else 0.0)(exactly(multiply)(a, b)),
    ),
    ("neg.f32", 1, lambda a: None if a != a else -a),
    ("abs.f32", 1, lambda a: None if a != a else abs(a)),
    ("copysign.f32", 2, lambda a, b: None if b != b else float(np.copysign(b, a))),
]


@pytest.mark.parametrize(("form", "arity", "function"), FLOATS, ids=lambda x: x if isinstance(x, str) else "")
def test_float32(library, form, arity, function):
    check(library, form, ["f32"] * arity, "f32", function)


@pytest.mark.parametrize("op", ["min", "max"])
def test_extremes(library, op):
    def extreme(a, b):
        if a != a or b != b:
            return b if a != a else a
        if a == b:
            return (min if op == "min" else max)(a, b, key=lambda x: np.copysign(1, x))
        return (min if op == "min" else max)(a, b)

    check(library, f"{op}.f32", ["f32"] * 2, "f32", extreme)
    check(library, f"{op}.f64", ["f64"] * 2, "f64", extreme)
    check(
        library,
        f"{op}.NaN.f32",
        ["f32"] * 2,
        "f32",
        lambda a, b: np.nan if a != a or b != b else extreme(a, b),
    )


@pytest.mark.parametrize(
    ("form", "function", "relative", "absolute"),
    [  # the errors that the ISA allows
        ("ex2.approx.f32", np.exp2, 2.0**-22, 0),
        ("lg2.approx.f32", np.log2, 2.0**-22, 2.0**-22),
        ("rsqrt.approx.f32", lambda x: 1 / np.sqrt(x), 2.0**-22.4, 0),
        ("rcp.approx.f32", lambda x: 1 / x, 2.0**-23, 0),
        ("sqrt.approx.f32", np.sqrt, 2.0**-23, 0),
        ("sqrt.rn.f32", np.sqrt, 2.0**-24, 0),
        ("tanh.approx.f32", np.tanh, 2.0**-11, 0),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_functions(library, form, function, relative, absolute):
    x = samples("f32", COUNT)
    got = results(library, one_instruction(form, ["f32"], "f32"), [x], "f32").astype(np.float64)
    with np.errstate(all="ignore"):
        want = function(x.astype(np.float64))
    normal = np.isfinite(want) & (np.abs(want) > 2.0**-126) & (np.abs(want) < 2.0**128)
    assert normal.sum() > 100
    assert np.all(np.abs(got - want)[normal] <= (relative * np.abs(want) + absolute)[normal])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want.astype(np.float32)))


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div.rn", "sqrt.rn"])
def test_float64(library, op):
    ufunc = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div.rn": np.divide, "sqrt.rn": np.sqrt}[
        op
    ]
    inputs = [samples("f64", COUNT) for _ in range(ufunc.nin)]
    with np.errstate(all="ignore"):
        want = ufunc(*inputs)
    got = results(library, one_instruction(f"{op}.f64", ["f64"] * ufunc.nin, "f64"), inputs, "f64")
    np.testing.assert_array_equal(got, want)


# ---------------------------------------------------------------- conversions


def to_integer(kind, mode):
    rounding = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[mode]
    low, high = (
        (-(1 << width(kind) - 1), (1 << width(kind) - 1) - 1)
        if kind[0] == "s"
        else (0, (1 << width(kind)) - 1)
    )

    def function(x):
        if x != x:
            return 0
        return low if x == -np.inf else high if x == np.inf else max(low, min(high, int(rounding(x))))

    return function


def small(mode, digits, least, most, bits_up):
    """The bits of a float16 or bfloat16, through float32's."""

    def function(x):
        if x != x:
            return 0x7FFF
        y = np.float32(x if np.isinf(x) or x == 0 else round_float(Fraction(x), mode, digits, least, most))
        if bits_up:
            return int(bits_of(np.array([np.copysign(y, x)], np.float32))[0]) >> 16
        return int(np.array([np.copysign(y, x)], np.float16).view(np.uint16)[0])

    return function


def two(function):
    return lambda a, b: function(a) << 16 | function(b)


def tf32(x):
    if x != x:
        return 0x7FFFFFFF
    y = x if np.isinf(x) or x == 0 else round_float(Fraction(x), "rna", 11, -136, 128)
    return int(bits_of(np.array([np.copysign(y, x)], np.float32))[0])


BFLOAT, HALF = (8, -133, 128, True), (11, -24, 16, False)
CONVERSIONS = [
    (f"cvt.{mode}.{to}.{of}", [of], to, to_integer(to, mode))
    for of in ("f32", "f64")
    for to in ("s32", "u32", "s64", "u64")
    for mode in ("rni", "rzi", "rmi", "rpi")
]
CONVERSIONS += [
    (f"cvt.{mode}.f32.{of}", [of], "f32", lambda a, m=mode: round_float(Fraction(a), m))
    for of in ("s32", "u32", "s64", "u64")
    for mode in ("rn", "rz", "rm", "rp")
]
CONVERSIONS += [
    (f"cvt.{to}.{of}", [of], to, lambda a: a)
    for of in ["s16", "u16", "s32", "u32", "s64", "u64"]
    for to in ["s16", "u16", "s32", "u32", "s64", "u64"]
    if of != to
]
CONVERSIONS += [
    (f"cvt.sat.{to}.s32", ["s32"], to, lambda a, lo=lo, hi=hi: max(lo, min(hi, a)))
    for to, lo, hi in (("s16", -(2**15), 2**15 - 1), ("u16", 0, 2**16 - 1))
]
CONVERSIONS += [
    (f"cvt.{mode}i.f32.f32", ["f32"], "f32", f)
    for mode, f in (("rn", np.rint), ("rz", np.trunc), ("rm", np.floor), ("rp", np.ceil))
]
CONVERSIONS += [
    ("cvt.rn.f64.s32", ["s32"], "f64", lambda a: a),
    ("cvt.f64.f32", ["f32"], "f64", lambda a: a),
    (
        "cvt.rn.f32.f64",
        ["f64"],
        "f32",
        lambda a: a if np.isinf(a) or a != a else np.copysign(round_float(Fraction(a), "rn"), a),
    ),
    (
        "cvt.rz.f32.f64",
        ["f64"],
        "f32",
        lambda a: a if np.isinf(a) or a != a else np.copysign(round_float(Fraction(a), "rz"), a),
    ),
    ("cvt.sat.f32.f32", ["f32"], "f32", lambda a: 0 if not a > 0 else min(a, 1)),
    ("cvt.rna.tf32.f32", ["f32"], "b32", tf32),
    ("cvt.rn.bf16.f32", ["f32"], "b16", small("rn", *BFLOAT)),
    ("cvt.rz.bf16.f32", ["f32"], "b16", small("rz", *BFLOAT)),
    ("cvt.rn.f16.f32", ["f32"], "b16", small("rn", *HALF)),
    ("cvt.rz.f16.f32", ["f32"], "b16", small("rz", *HALF)),
    ("cvt.rn.bf16x2.f32", ["f32"] * 2, "b32", two(small("rn", *BFLOAT))),
    ("cvt.rn.f16x2.f32", ["f32"] * 2, "b32", two(small("rn", *HALF))),
    ("cvt.rz.f16x2.f32", ["f32"] * 2, "b32", two(small("rz", *HALF))),
    ("cvt.f32.f16", ["b16"], "f32", lambda a: float(np.array([a], np.uint16).view(np.float16)[0])),
    (
        "cvt.f32.bf16",
        ["b16"],
        "f32",
        lambda a: (lambda x: None if x != x else float(x))(
            np.array([a << 16], np.uint32).view(np.float32)[0]
        ),
    ),
]


@pytest.mark.parametrize(
    ("form", "sources", "result", "function"), CONVERSIONS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_conversions(library, form, sources, result, function):
    check(library, form, sources, result, function)


def test_conversions_between_widths(library):
    """Narrow types in registers of 32 and 64 bits, extended by their sign."""
    cases = [
        ("cvt.s32.s8", "s32", "cvt.s32.s8 {d}, {0};", "u32", lambda a: wrap(a, "s8")),
        ("cvt.u32.u8", "u32", "cvt.u32.u8 {d}, {0};", "u32", lambda a: a & 255),
        ("cvt.s64.s32", "s64", "cvt.s64.s32 {d}, {0};", "u64", lambda a: wrap(a, "s32")),
        ("cvt.u64.u8", "u64", "cvt.u64.u8 {d}, {0};", "u32", lambda a: a & 255),
        ("cvt.s8.s32", "s32", "cvt.s8.s32 {d}, {0};", "s32", lambda a: wrap(a, "s8")),
    ]
    for name, result, text, source, function in cases:
        check(library, name, [source], result, function, text)
