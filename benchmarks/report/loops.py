"""The loop of a product kernel's machine code that multiplies, and which unit each of its instructions needs.

Read from ``cuobjdump -sass``. The *inner* loop is the smallest that holds most of the products (HGMMA, HMMA
or FFMA). Where it takes no part in bringing operands (the FFMA kernels multiply a step in a loop of its own),
the step of the reduction is the smallest loop around it that does. A kernel on tensor cores may have its loop
twice, once with more work for some blocks (wgrad's sums of a bias's gradient): the shorter is the main loop.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from report.sass import FUNCTION

#: Unit -> opcodes of sm_90, the part before the first dot. What is not named, and what starts with U (the
#: uniform datapath), costs its issue alone.
UNITS = {
    "tensor": {"HMMA", "IMMA", "HGMMA", "QGMMA", "IGMMA", "BGMMA"},
    "ffma": {"FFMA", "FFMA2", "FADD", "FMUL", "HFMA2", "HADD2", "HMUL2"},
    "imad": {"IMAD"},  # also moves, shifts and sums that the compiler gives the multiplier
    "alu": {
        "IADD3", "VIADD", "LEA", "LOP3", "LOP", "SHF", "SEL", "FSEL", "ISETP", "FSETP", "PLOP3", "PRMT",
        "FMNMX", "IMNMX", "VIMNMX", "VIADDMNMX", "IABS", "MOV", "P2R", "R2P", "BMSK", "SGXT", "HSETP2",
        "HSET2", "HMNMX2",
    },
    "shared": {"LDS", "LDSM", "STS", "STSM", "LDGSTS"},
    "global": {"LDG", "LD", "STG", "ST"},
}  # fmt: skip
UNIT_OF = {opcode: unit for unit, opcodes in UNITS.items() for opcode in opcodes}
#: What is counted by opcode beside the units.
NAMED = ("HGMMA", "HMMA", "FFMA", "LDSM", "LDS", "STS", "LDGSTS", "LDG", "BAR")
#: Passes over the 32 banks of an access to shared memory, by the end of its opcode: 128 bytes each. A wide
#: LDS takes half of them beside FFMA, where lanes read each address in pairs (see conv/gemm_tile.h).
_WIDTHS = {"128": 4, "4": 4, "64": 2, "2": 2}
#: What brings operands to the product, or waits for it.
_BRINGS = {"BAR", "LDGSTS", "LDG", "UTMALDG", "SYNCS", "STS"}
MOST_OF_A_WAIT = 6 * 16  #: bytes
_PRODUCTS = UNITS["tensor"] | {"FFMA", "FFMA2"}

_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);")
_TARGET = re.compile(r"\b0x([0-9a-f]+)\s*$")


@dataclass(frozen=True)
class Instruction:
    """One line of a kernel; `never`: its predicate is false for good, so that it only takes its issue."""

    address: int
    opcode: str
    never: bool
    target: int | None

    @property
    def name(self) -> str:
        """The opcode without its suffixes."""
        return self.opcode.split(".")[0]

    def passes(self, paired: bool) -> int:
        """Passes over the banks of shared memory, free of conflicts; `paired`: a wide LDS takes half."""
        if UNIT_OF.get(self.name) != "shared":
            return 0
        passes = _WIDTHS.get(self.opcode.split(".")[-1], 1)
        return max(passes // 2, 1) if self.name == "LDS" and paired else passes


def read(text: str) -> dict[str, list[Instruction]]:
    """Kernel symbol -> its instructions, from ``cuobjdump -sass``."""
    found: dict[str, list[Instruction]] = {}
    code: list[Instruction] = []
    for line in text.splitlines():
        if match := FUNCTION.match(line):
            code = found.setdefault(match[1], [])
        elif match := _LINE.match(line):
            jump = _TARGET.search(match[4]) if match[3].startswith("BRA") else None
            code.append(
                Instruction(
                    int(match[1], 16), match[3], match[2] == "!PT", int(jump[1], 16) if jump else None
                )
            )
    return found


def _count(code: list[Instruction]) -> dict[str, int]:
    """Instructions by unit and, of some, by name; `issue` is all of them, `passes` those of shared memory."""
    row = Counter(issue=len(code))
    paired = not any(instruction.name in UNITS["tensor"] for instruction in code)
    for instruction in code:
        if instruction.never:
            continue
        row["passes"] += instruction.passes(paired)
        if unit := UNIT_OF.get(instruction.name):
            row[unit] += 1
        if instruction.name in NAMED:
            row[instruction.name] += 1
    return {name: row[name] for name in ("issue", *UNITS, "passes", *NAMED) if row[name]}


def _leaves_wait(code: list[Instruction], at: int) -> bool:
    """Whether a jump ends a barrier's wait that stands behind the code: it follows a loop of a few
    instructions, one of which asks the barrier.
    """
    back = code[at - 1]
    if at < 1 or back.target is None or not 0 <= back.address - back.target <= MOST_OF_A_WAIT:
        return False
    return any(i.name == "SYNCS" and back.target <= i.address for i in code[max(at - 8, 0) : at])


def _spans(code: list[Instruction]) -> list[tuple[int, int]]:
    """First and last address of every loop: from where a jump back leads to the jump. Of two that overlap,
    and are not one in the other, the compiler has turned one round, and both are one loop.
    """
    spans: list[tuple[int, int]] = []
    for at, jump in enumerate(code):
        if jump.target is not None and jump.target <= jump.address and not _leaves_wait(code, at):
            span = jump.target, jump.address
            while other := next((s for s in spans if s[0] < span[0] <= s[1] < span[1] or
                                 span[0] < s[0] <= span[1] < s[1]), None):  # fmt: skip
                spans.remove(other)
                span = min(span[0], other[0]), max(span[1], other[1])
            spans.append(span)
    return spans


def _within(body: list[Instruction], other: list[Instruction]) -> bool:
    """Tell whether a loop is part of another one."""
    return body is not other and other[0].address <= body[0].address <= body[-1].address <= other[-1].address


def main_loop(code: list[Instruction]) -> dict[str, dict[str, int]] | None:
    """Count the loop that multiplies: ``{"step": ...}``, what a step does once, ``"inner"`` where a loop
    inside it multiplies, ``"longer"``, the loop that does the same and more, where there is one, and
    ``"rest"``, all that lies outside. None for a kernel without products in a loop.
    """
    loops = []
    for first, last in _spans(code):
        body = [i for i in code if first <= i.address <= last]
        loops.append((sum(i.name in _PRODUCTS for i in body), body))
    most = max((products for products, _ in loops), default=0)
    if most == 0:
        return None
    bodies = [body for products, body in loops if products == most]
    apart = sorted((body for body in bodies if not any(_within(body, other) for other in bodies)), key=len)
    inner = min((body for body in bodies if body is apart[0] or _within(body, apart[0])), key=len)
    around = sorted((body for _, body in loops if body[0].address <= inner[0].address
                     and inner[-1].address <= body[-1].address), key=len)  # fmt: skip
    step = next((body for body in around if any(i.name in _BRINGS for i in body)), inner)
    tensor = any(i.name in UNITS["tensor"] for i in inner)
    longer = apart[1] if tensor and len(apart) > 1 else []
    found = {"step": _count(step), "rest": {"issue": len(code) - len(step) - len(longer)}}
    if longer:
        found["longer"] = _count(longer)
    if step is not inner:
        once = [i for i in step if not inner[0].address <= i.address <= inner[-1].address]
        found |= {"step": _count(once), "inner": _count(inner)}
    return found


def main_loops(text: str) -> dict[str, dict[str, dict[str, int]]]:
    """Kernel symbol -> its main loop, of those that have one."""
    return {symbol: loop for symbol, code in read(text).items() if (loop := main_loop(code))}
