"""The file that chosen kernels are remembered in."""

import json
import multiprocessing
import sys
import warnings
from pathlib import Path

import pytest
from support import ROOT
from test_tuning import W, X, arrays, entries

from pyconvnet import ops
from pyconvnet.ops import tuning
from pyconvnet.ops.tuning import cache as caches

CARD = caches.Card("H", "9.0", "1")


def entry(op="conv2d", card=CARD, shape="s", **changes) -> caches.Entry:
    values = {
        "card": card.name, "capability": card.capability, "driver": card.driver, "op": op, "shape": shape,
        "precision": "fp32", "kernel": "k", "us": 1.0, "heuristic": "h", "heuristic_us": 2.0, "rows": "0",
        "version": "1", "date": "2026-01-01", "tried": {"k": 1.0}, "failed": {"q": "why"},
    }  # fmt: skip
    return caches.Entry(**values | changes)


def test_the_file_is_readable_and_comes_back(tmp_path):
    path = tmp_path / "deep" / "tuning.json"
    for op in ("b", "a"):
        caches.Cache(path).add(entry(op))
    lines = path.read_text().splitlines()
    assert [json.loads(line.rstrip(","))["op"] for line in lines if '"card"' in line] == ["a", "b"]
    assert json.loads(path.read_text())["schema"] == caches.SCHEMA
    assert list(caches.Cache(path).entries.values()) == [entry("a"), entry("b")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"schema": 1, "entries": [', "no JSON"),
        ("", "no JSON"),
        ("[]", "no list of entries"),
        ('{"schema": 1, "entries": {}}', "no list of entries"),
        ('{"schema": 1, "entries": [3]}', "entry 0 is no object"),
        ('{"schema": 1, "entries": [{"card": "H"}]}', "entry 0: capability must be str, got nothing"),
        (caches.text_of([entry(us=1.0)]).replace('"us": 1.0', '"us": "1"'), "us must be float, got '1'"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_damaged_file_is_named_and_set_aside(tmp_path, text, why):
    path = tmp_path / "tuning.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    damaged = path.read_bytes()
    cache = caches.Cache(path)
    with pytest.warns(RuntimeWarning, match=f"tuning: .*tuning.json.*{why}.*it is now .*damaged-1"):
        assert cache.entries == {}
    assert (tmp_path / "tuning.json.damaged-1").read_bytes() == damaged
    cache.add(entry())
    assert list(caches.Cache(path).entries.values()) == [entry()]


def test_another_versions_file_is_left_alone(tmp_path):
    path = tmp_path / "tuning.json"
    path.write_text('{"schema": 2, "entries": []}')
    cache = caches.Cache(path)
    with pytest.warns(RuntimeWarning, match="schema 2, this version of pyconvnet reads 1; it is left alone"):
        cache.add(entry())
    assert path.read_text() == '{"schema": 2, "entries": []}'
    assert list(cache.entries.values()) == [entry()]  # for this process


def test_a_file_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    cache = caches.Cache(tmp_path / "file" / "tuning.json")
    with pytest.warns(RuntimeWarning, match="cannot be written .* forgotten with this process"):
        cache.add(entry())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.add(entry("other"))  # said once
    assert len(cache.entries) == 2


def _write(path: str, name: str, count: int) -> None:
    cache = caches.Cache(Path(path))
    for i in range(count):
        cache.add(entry(f"{name}{i}"))


def test_processes_do_not_lose_each_others_entries(tmp_path):
    path = tmp_path / "tuning.json"
    spawn = multiprocessing.get_context("fork")
    processes = [spawn.Process(target=_write, args=(str(path), name, 12)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert {e.op for e in caches.Cache(path).entries.values()} == {
        f"{n}{i}" for n in "abc" for i in range(12)
    }


def test_entries_of_another_process_are_not_overwritten_by_older_ones(tmp_path):
    """Two processes measured the same; the one that did so first then adds something else."""
    first, second = (caches.Cache(tmp_path / "t.json") for _ in range(2))
    first.add(entry())
    second.add(entry(us=0.5))
    first.add(entry("other"))
    there = caches.Cache(tmp_path / "t.json")
    assert {(e.op, e.us) for e in there.entries.values()} == {("conv2d", 0.5), ("other", 1.0)}
    assert there.clear() == 2
    second.add(entry("third"))  # what has been cleared does not come back
    assert [e.op for e in caches.Cache(tmp_path / "t.json").entries.values()] == ["third"]


def test_entries_hold_for_a_card_a_driver_and_the_kernels_of_now(clock, tmp_path):
    timer = clock()
    x, w = arrays()
    path = tmp_path / "tuning.json"

    def measures() -> bool:
        timer.rounds.clear()
        tuning.forget()
        with ops.on("emulator"):
            ops.conv2d(x, w, pad=1)
        return bool(timer.rounds)

    assert measures()
    assert not measures()
    text = path.read_text()
    (one,) = entries(path)
    for field, value in (
        ("card", "other"), ("capability", "8.0"), ("driver", "other"), ("precision", "tf32"),
        ("version", "0.0.1"), ("rows", "00000000"), ("kernel", "conv2d_fprop_gone"),
        ("kernel", f"{one['kernel'].partition('/')[0]}/777"),
    ):  # fmt: skip
        path.write_text(text.replace(json.dumps({field: one[field]})[1:-1], json.dumps({field: value})[1:-1]))
        assert path.read_text() != text, field
        assert measures(), field
        path.write_text(text)
    assert not measures()


def test_what_is_shipped_serves_any_driver(clock, monkeypatch, tmp_path):
    timer = clock()
    x, w = arrays()
    with ops.on("emulator"):
        ops.conv2d(x, w, pad=1)
    known = caches.parse((tmp_path / "tuning.json").read_text(), "a test")
    (tmp_path / "tuning.json").unlink()
    other = [caches._entry({**vars(known[0]), "driver": "older"}, "a test")]
    monkeypatch.setattr(caches, "shipped", lambda: tuple(other))
    timer.rounds.clear()
    tuning.forget()
    with ops.on("emulator"):
        ops.conv2d(x, w, pad=1)
    made = ops.choice("conv2d", X, W, pad=1, device="emulator")
    assert (made.source, made.kernel, timer.rounds) == ("shipped", known[0].kernel, [])


def test_the_shipped_files_are_caches():
    """None yet: no card has been measured. What is added must be readable."""
    assert all(isinstance(e, caches.Entry) for e in caches.shipped())
    for path in (ROOT / "pyconvnet" / "tuned").glob("*.json"):
        assert caches.parse(path.read_text(), path.name)


def test_where_the_file_is(monkeypatch, tmp_path):
    monkeypatch.delenv("PYCONVNET_TUNE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert tuning.default_path() == tmp_path / "pyconvnet" / "tuning.json"
    monkeypatch.setenv("PYCONVNET_TUNE_CACHE", str(tmp_path / "mine.json"))
    assert tuning.default_path() == tmp_path / "mine.json"


def test_clearing(tmp_path):
    cache = caches.Cache(tmp_path / "tuning.json")
    assert cache.clear() == 0
    cache.add(entry("a"))
    cache.add(entry("b", card=caches.Card("other", "8.0", "1")))
    assert cache.clear(caches.Card("other", "8.0", "2")) == 1
    assert [e.op for e in caches.Cache(cache.path).entries.values()] == ["a"]
    assert cache.clear() == 1
    assert caches.Cache(cache.path).entries == {}
