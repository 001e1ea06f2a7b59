"""The report as JSON, as Markdown, and the differences between two reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from report.sass import COUNTED

#: What the accesses of a kernel must not exceed: cost over ideal of all requests together.
BOUNDS = {"load": 1.0, "store": 1.0, "shared load": 1.0, "shared store": 1.0}
SHOWN = tuple(name for name in COUNTED if name != "LDL/STL")

INTRODUCTION = """\
# What compiler and emulator say about the kernels

Written by `python benchmarks/kernel_report.py --write`; CI compares it with the sources (`--check`). No GPU
is involved, and no time measured: it shows what the compiler made of each kernel and how its warps use
memory.
"""

CODE = """\
## Compiled code

nvcc {nvcc}, for compute capability 9.0 unless said otherwise. *regs* are registers a thread, on sm_75 / 80 /
90. *shared* is static shared memory in bytes; with "+ n" the dynamic part of the launches counted below.
*blocks* is how many blocks a multiprocessor of an H100 or H200 can hold at once and *warps* the share of its
64 warps that they are; *limit* is what forbids another block. The rest are instructions in the code (not
executions) on sm_90, in brackets on sm_80 where that differs. "-": none. A kernel that several files contain
alike stands once. On sm_75 a tensor-core kernel only traps: it is not chosen there.
"""

ACCESSES = """\
## Accesses of warps

Counted by the emulator (see [emulator.md](emulator.md)) on AlexNet's layers, one image of each, three blocks
of each launch. *sectors* are the 32-byte sectors that a warp's access of global memory touches, over the
least that its bytes would fill: 1.00 is fully coalesced. *passes* are those over the banks of shared memory,
over the least possible: 1.00 is free of conflicts. Behind each ratio, the number of requests (accesses of a
warp).
"""


def measured(rows: list[tuple[str, str, str, Any]], name_of: Any, lines: bool = False) -> list[dict]:
    """One JSON row per kernel from what :func:`measure.run` counted; `lines`: places with their lines."""
    table: dict[tuple[str, str], dict] = {}
    for family, case, _, launch in rows:
        key = (launch.stem, name_of(launch.name))
        row = table.setdefault(
            key,
            {
                "family": family,
                "stem": key[0],
                "kernel": key[1],
                "cases": [],
                "threads": launch.threads,
                "dynamic": 0,
                "counts": {},
                "exceptions": {},
            },
        )
        if case not in row["cases"]:
            row["cases"].append(case)
        row["dynamic"] = max(row["dynamic"], launch.dynamic_bytes)
        for what, count in launch.summary().items():
            into = row["counts"].setdefault(what, {"requests": 0, "cost": 0, "ideal": 0})
            for name in into:
                into[name] += getattr(count, name)
        for site in launch.sites:
            if site.cost > site.ideal * BOUNDS[site.what]:
                where = site.where if lines else site.where.split(":")[0]  # lines move with every comment
                place = f"{site.what} of {site.bytes} bytes at {where}"
                into = row["exceptions"].setdefault(place, {"requests": 0, "cost": 0, "ideal": 0})
                for name in into:
                    into[name] += getattr(site, name)
    return [table[key] for key in sorted(table, key=lambda k: (table[k]["family"], k))]


def ratio(count: dict[str, int]) -> float:
    """Cost over ideal."""
    return count["cost"] / count["ideal"] if count["ideal"] else 1.0


def reason_of(stem: str, place: str, reasons: dict[str, str]) -> tuple[str, str]:
    """(key, reason) for a place that exceeds its bound; two empty strings where there is none.

    A key is ``"load at norm/lrn_generic.cu"`` (kind of access, file), or that with ``"stem: "`` before it.
    """
    what, where = place.split(" of ")[0], place.split(" at ")[-1].split(":")[0]
    for key in (f"{stem}: {what} at {where}", f"{what} at {where}"):
        if key in reasons:
            return key, reasons[key]
    return "", ""


def _table(header: list[str], rows: list[list[str]], left: int) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "|".join("---" if i < left else "---:" for i in range(len(header))) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _code(text: str) -> str:
    return f"`{text}`"


def _code_rows(report: dict, family: str) -> Iterator[list[str]]:
    for row in report["kernels"]:
        if row["family"] != family:
            continue
        arch = row["arch"]
        newest = arch.get("90") or arch.get("90a") or next(reversed(arch.values()))
        counts, older = newest["sass"], arch.get("80", newest)["sass"]
        fits = row.get("occupancy")
        yield [
            _code(row["stem"]),
            _code(row["kernel"]),
            " / ".join(str(a["registers"]) for a in arch.values()),
            str(newest["shared"]) + (f" + {row['dynamic']}" if row.get("dynamic") else ""),
            str(row["threads"] or "?"),
            str(fits["blocks"]) if fits else "?",
            f"{fits['percent']:.0f} %" if fits else "?",
            fits["limit"] if fits else "?",
            *(_cell(counts.get(name, 0), older.get(name, 0)) if counts else "?" for name in SHOWN),
        ]


def _cell(new: int, old: int) -> str:
    return (str(new) if new else "-") + (f" ({old})" if old != new else "")


def _access_rows(report: dict, family: str) -> Iterator[list[str]]:
    for row in report["accesses"]:
        if row["family"] != family:
            continue
        cells = []
        for what in BOUNDS:
            count = row["counts"][what]
            cells.append(f"{ratio(count):.2f} ({count['requests']})" if count["requests"] else "-")
        yield [_code(row["stem"]), _code(row["kernel"]), ", ".join(row["cases"]), *cells]


def markdown(report: dict, reasons: dict[str, str]) -> str:
    """The committed report. `reasons`: why a place that exceeds its bound does so."""
    lines = [INTRODUCTION]
    if report["kernels"] is not None:
        lines.append(CODE.format(nvcc=report["nvcc"]))
    for family in sorted({row["family"] for row in report["kernels"] or []}):
        lines += [f"### {family}", ""]
        header = ["file", "kernel", "regs", "shared", "threads", "blocks", "warps", "limit", *SHOWN]
        lines += [*_table(header, list(_code_rows(report, family)), 2), ""]
    if report["accesses"] is None:
        return "\n".join(lines).rstrip() + "\n"
    lines.append(ACCESSES)
    for family in sorted({row["family"] for row in report["accesses"]}):
        header = ["file", "kernel", "layers", "load sectors", "store sectors", "load passes", "store passes"]
        lines += [f"### {family}", "", *_table(header, list(_access_rows(report, family)), 3), ""]
    lines += ["### Places that are not ideal", ""]
    rows = []
    for row in report["accesses"]:
        for place, count in row["exceptions"].items():
            why = reason_of(row["stem"], place, reasons)[1]
            rows.append([_code(row["stem"]), place, str(count["requests"]), f"{ratio(count):.2f}", why])
    if rows:
        lines += _table(["file", "access", "requests", "cost / ideal", "why"], rows, 2)
    else:
        lines.append("None.")
    return "\n".join(lines).rstrip() + "\n"
