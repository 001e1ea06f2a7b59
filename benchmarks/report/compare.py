"""What differs between the committed report and the sources."""

from __future__ import annotations

from typing import Any

#: What the cycle model makes of the rest of a report.
PREDICTIONS = ("products", "others", "steps")


def _same_release(a: str, b: str) -> bool:
    return a.split(".")[:2] == b.split(".")[:2]


def _key(row: dict) -> tuple[str, str]:
    return row["stem"], row["kernel"]


def _rows(what: str, old: list[dict], new: list[dict], differ: Any) -> list[str]:
    """Rows that came, went, or differ; ``differ(old, new)`` returns what is different."""
    before, after = {_key(r): r for r in old}, {_key(r): r for r in new}
    found = []
    for key in sorted(before.keys() | after.keys()):
        name = f"{what} {key[0]} {key[1]}"
        if key not in after:
            found.append(f"- {name}: no longer there")
        elif key not in before:
            found.append(f"+ {name}: not in the report")
        else:
            found += [f"! {name}: {text}" for text in differ(before[key], after[key])]
    return found


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def _of(archs: set[str], kernels: list[dict]) -> list[dict]:
    """The rows with what they say of these architectures."""
    return [row | {"arch": {a: made for a, made in row["arch"].items() if a in archs}} for row in kernels]


def _everything(old: dict, new: dict) -> list[str]:
    a, b = flat(old), flat(new)
    return [
        f"{key} was {a.get(key, 'not there')}, is {b.get(key, 'not there')}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def _what_any_compiler_keeps(old: dict, new: dict) -> list[str]:
    """Spills, and which instructions there are at all."""
    found = []
    for arch in sorted(old["arch"].keys() & new["arch"].keys()):
        before, after = old["arch"][arch], new["arch"][arch]
        if bool(before["spill"]) != bool(after["spill"]):
            found.append(f"sm_{arch}: spilled {before['spill']} bytes, now {after['spill']}")
        for name in sorted(before["sass"].keys() & after["sass"].keys()):
            if bool(before["sass"][name]) != bool(after["sass"][name]):
                is_there = "has" if after["sass"][name] else "has no"
                found.append(f"sm_{arch}: now {is_there} {name}")
    return found


def _exceptions(old: dict, new: dict) -> list[str]:
    before, after = set(old["exceptions"]), set(new["exceptions"])
    return [f"no longer: {p}" for p in sorted(before - after)] + [f"now: {p}" for p in sorted(after - before)]


def _without_occupancy(report: dict) -> dict:
    rows = [{k: v for k, v in row.items() if k not in ("occupancy", "dynamic")} for row in report["kernels"]]
    return {**report, "kernels": rows}


def differences(old: dict, new: dict) -> tuple[list[str], list[str]]:
    """(differences, notes). Parts and architectures that `new` has not got are not compared."""
    notes, found = [], []
    if new.get("kernels") is not None:
        same = _same_release(old["nvcc"], new["nvcc"])
        if not same:
            notes.append(
                f"the report is of nvcc {old['nvcc']}, here is {new['nvcc']}: comparing only spills and "
                "which instructions are there"
            )
        if new.get("accesses") is None:  # then dynamic shared memory is not known
            old, new = _without_occupancy(old), _without_occupancy(new)
        before = _of({arch for row in new["kernels"] for arch in row["arch"]}, old["kernels"])
        found += _rows("code", before, new["kernels"], _everything if same else _what_any_compiler_keeps)
    if new.get("accesses") is not None:
        same = old["g++"].split(".")[0] == new["g++"].split(".")[0]
        if not same:
            notes.append(
                f"the accesses are of g++ {old['g++']}, here is {new['g++']}: comparing only what exceeds a "
                "bound"
            )
        found += _rows("accesses", old["accesses"], new["accesses"], _everything if same else _exceptions)
        if old["alexnet"] != new["alexnet"]:
            found.append("! alexnet: other kernels take the layers of a step")
    if not found and any(old[part] != new.get(part, old[part]) for part in PREDICTIONS):
        found.append("! predictions: they are not those of the cycle model")
    return found, notes
