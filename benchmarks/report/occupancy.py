"""How many blocks of a kernel a multiprocessor of compute capability 9.0 can hold, and what limits them.

The limits are the programming guide's, table "Technical Specifications per Compute Capability": 64 Ki
registers, given to a warp in units of 256 and in each of four quarters of the multiprocessor; 228 KiB of
shared memory, of which each block takes 1 KiB for the system, given in units of 128 bytes; 64 warps, 32
blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

WARPS, BLOCKS, QUARTERS = 64, 32, 4
REGISTERS, REGISTER_UNIT = 65536, 256
SHARED, SHARED_RESERVED, SHARED_UNIT = 228 * 1024, 1024, 128


@dataclass(frozen=True)
class Occupancy:
    """Resident blocks, the share of the 64 warps that they are, and what forbids another block."""

    blocks: int
    percent: float
    limit: str


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def sm90(threads: int, registers: int, shared: int) -> Occupancy:
    """Occupancy of blocks of `threads` threads with so many registers a thread and bytes of shared memory."""
    if threads < 1 or registers < 1 or shared < 0:
        raise ValueError(f"not a kernel: {threads} threads, {registers} registers, {shared} bytes")
    warps = -(-threads // 32)
    warps_by_registers = QUARTERS * (REGISTERS // QUARTERS // _round_up(registers * 32, REGISTER_UNIT))
    limits = {
        "registers": warps_by_registers // warps,
        "shared memory": SHARED // _round_up(shared + SHARED_RESERVED, SHARED_UNIT),
        "threads": WARPS // warps,
        "blocks": BLOCKS,
    }
    blocks = min(limits.values())
    limit = ", ".join(name for name, most in limits.items() if most == blocks)
    return Occupancy(blocks, 100.0 * blocks * warps / WARPS, limit)
