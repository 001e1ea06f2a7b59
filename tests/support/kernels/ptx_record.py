"""What a session of tests ran on the executor of PTX: kernels, launches, instructions, rows of the tables.

A plugin of pytest that conftest.py registers where ``cuda:0`` is the executor. With ``--every-row`` a run
that left out a row of a table fails.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.fakes.fake_ptx import ROWS, PtxMachine
from support.kernels.kernel_record import tables


class Record:
    """The plugin, of one of pytest-xdist's workers or of the controller, which adds up theirs."""

    def __init__(self, machine: PtxMachine):
        self._machine = machine
        self._found: dict[str, Any] = {"kernels": set(), "rows": set(), "counts": {}}

    def _add(self, found: dict[str, Any]) -> None:
        for name in ("kernels", "rows"):
            self._found[name] |= set(found[name])
        for name, count in found["counts"].items():
            self._found["counts"][name] = self._found["counts"].get(name, 0) + count

    def _missing(self) -> tuple[list[str], int]:
        """The rows that did not run, and how many there are."""
        rows = {row for names in tables(self._machine.ext.module).values() for row in names}
        return sorted(rows - self._found["rows"]), len(rows)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node, error):
        """Collect what a worker ran."""
        if found := getattr(node, "workeroutput", {}).get("ptx"):
            self._add(found)

    def pytest_sessionfinish(self, session, exitstatus):
        """Hand what was run here to the controller, or judge it."""
        runtime = self._machine.runtime
        mine = {
            "kernels": sorted(runtime.kernels()),
            "rows": sorted(ROWS),
            "counts": runtime.counts()._asdict(),
        }
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["ptx"] = mine
            return
        self._add(mine)
        missing, _ = self._missing()
        if session.config.option.every_row and missing:
            session.shouldfail = f"{len(missing)} kernels that ran on no PTX: {', '.join(missing)}"
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter, config):
        """Print the sums."""
        if hasattr(config, "workerinput"):
            return
        counts, (missing, count) = self._found["counts"], self._missing()
        terminalreporter.write_line(
            f"PTX: {len(self._found['kernels'])} kernels, {counts.get('launches', 0):,} launches, "
            f"{counts.get('warp_instructions', 0):,} instructions of warps, "
            f"{counts.get('lane_instructions', 0):,} of threads; {count - len(missing)} of {count} rows"
        )
