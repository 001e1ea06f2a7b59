"""Which devices reach each other's memory, and what ``pyconvnet devices`` says of it; on fake devices."""

from __future__ import annotations

import json
import re

import pytest
from support.fakes.fake_cuda import CUDARuntimeError, Machine

from pyconvnet import ops
from pyconvnet.cli.main import main
from pyconvnet.common import devices


def machine(monkeypatch, count=2, peer=True):
    monkeypatch.delenv("PYCONVNET_PEER", raising=False)
    return Machine(count, peer=peer).install(monkeypatch)


def test_peer_access(monkeypatch):
    a, b = map(machine(monkeypatch).device, range(2))
    assert devices.peer_access(a, b) is True
    assert devices.peer_access(a, a) is True
    assert devices.peer_access(a, devices.cpu()) == "cpu is not a CUDA device"
    assert devices.peer_access(devices.emulator(), b) == "emulator is not a CUDA device"
    monkeypatch.setenv("PYCONVNET_PEER", "0")
    assert devices.peer_access(a, b) == "PYCONVNET_PEER=0 is set"
    assert devices.peer_access(b, b) is True
    a, b = map(machine(monkeypatch, peer=False).device, range(2))
    assert devices.peer_access(a, b) == "the driver offers none from cuda:0 to cuda:1"


def test_enabling_peer_access(monkeypatch):
    m = machine(monkeypatch)
    a, b = map(m.device, range(2))
    for _ in range(2):  # the second time it is enabled already
        assert devices.enable_peer_access(a, b) is True
    assert m.enabled == {(0, 1)}
    assert devices.enable_peer_access(a, a) is True

    def fails(peer):
        raise CUDARuntimeError(711, "too many peers")

    monkeypatch.setattr(m.xp.cuda.runtime, "deviceEnablePeerAccess", fails)
    assert devices.enable_peer_access(b, a) == "enabling it failed: too many peers"
    none = machine(monkeypatch, peer=False)
    assert "the driver offers none" in devices.enable_peer_access(none.device(0), none.device(1))
    assert none.enabled == set()


def test_one_way_only(monkeypatch):
    """What the driver says may depend on the direction."""
    m = machine(monkeypatch, 3)
    monkeypatch.setattr(m.xp.cuda.runtime, "deviceCanAccessPeer", lambda a, b: int(a < b))
    reason = "the driver offers none from cuda:{} to cuda:{}"
    assert devices.peer_matrix() == {
        "cuda:0": {"cuda:1": True, "cuda:2": True},
        "cuda:1": {"cuda:0": reason.format(1, 0), "cuda:2": True},
        "cuda:2": {"cuda:0": reason.format(2, 0), "cuda:1": reason.format(2, 1)},
    }


def listed(capsys) -> tuple[list[str], dict[str, dict]]:
    assert main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["devices", "--json"]) == 0
    return lines, {d["device"]: d for d in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize("peer", [True, False])
def test_the_command_with_two_devices(monkeypatch, capsys, peer):
    machine(monkeypatch, peer=peer)
    lines, found = listed(capsys)
    assert lines[0].split() == ["cuda:0", "works", "(default)"]
    if peer:
        assert lines[-2:] == ["peer access: cuda:0 to cuda:1", "peer access: cuda:1 to cuda:0"]
    else:
        assert lines[-4:] == [
            "peer access: cuda:0 to none",
            "  not to cuda:1: the driver offers none from cuda:0 to cuda:1",
            "peer access: cuda:1 to none",
            "  not to cuda:0: the driver offers none from cuda:1 to cuda:0",
        ]
    assert found["cuda:0"]["peer_access"] == {"cuda:1": peer}
    assert found["cuda:1"]["peer_access"] == {"cuda:0": peer}
    assert found["cpu"]["peer_access"] == {}


def test_the_command_says_which_code_runs(monkeypatch, capsys):
    m = machine(monkeypatch)
    for index, capability in enumerate((90, 120)):
        m.device(index).code = devices.code_for("80-real 90-real 90-virtual", capability)
    lines, found = listed(capsys)
    assert re.fullmatch(r"cuda:0 +works, by machine code for 9.0 \(default\)", lines[0])
    assert re.fullmatch(r"cuda:1 +works, by PTX for 9.0", lines[1])
    assert (found["cuda:0"]["code"], found["cpu"]["code"]) == ("machine code for 9.0", None)


def test_rows_are_listed_on_their_device(monkeypatch):
    """Which code a kernel has may differ from card to card: the table is asked with the card current."""
    m = machine(monkeypatch)
    current = []
    emulated = m.ext._ext.conv2d_fprop_kernels
    m.ext.conv2d_fprop_kernels = lambda shape: current.append(m.current) or emulated(shape)
    ops.kernels("conv2d", (1, 8, 8, 8), (8, 3, 3, 8), device="cuda:1")
    ops.kernels("linear", (8, 8), (8, 8), device="cuda:1")
    assert current == [1, 1]
    assert m.current == 0


@pytest.mark.parametrize(("count", "word"), [(0, "none"), (1, "1")])
def test_the_command_with_fewer(monkeypatch, capsys, count, word):
    machine(monkeypatch, count)
    lines, found = listed(capsys)
    assert lines[-1] == f"peer access: between CUDA devices, of which {word} works here"
    assert all(d["peer_access"] == {} for d in found.values())
