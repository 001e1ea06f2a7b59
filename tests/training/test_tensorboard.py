"""The log's figures for TensorBoard, read back from the files."""

import struct
import sys

import pytest
from support.runs import events, go, toys

from pyconvnet.cli.main import main
from pyconvnet.training import tensorboard
from pyconvnet.training.loop import Trainer


@pytest.fixture
def read():
    """``read(folder)``: the events of all files, the oldest file first."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    crc32c = pytest.importorskip("tensorboardX.crc32c").crc32c

    def masked(data):
        crc = crc32c(data)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    def records(data):
        at = 0
        while at < len(data):
            head = data[at : at + 8]
            (length,) = struct.unpack("<Q", head)
            body = data[at + 12 : at + 12 + length]
            assert struct.unpack("<I", data[at + 8 : at + 12])[0] == masked(head)
            assert struct.unpack("<I", data[at + 12 + length : at + 16 + length])[0] == masked(body)
            yield event_pb2.Event.FromString(body)
            at += 16 + length

    return lambda folder: [e for path in sorted(folder.iterdir()) for e in records(path.read_bytes())]


def values(events, tag):
    return [(e.step, v.simple_value) for e in events for v in e.summary.value if v.tag == tag]


def test_the_figures_of_the_log(tmp_path, read, monkeypatch):
    monkeypatch.setattr("pyconvnet.training.loop._LOG_SECONDS", 0.0)
    run = go(tmp_path, tensorboard=True, schedule=[(2, 0.1)])
    found = read(tmp_path / "tensorboard")
    assert found[0].file_version == "brain.Event:2"
    for tag, name in (
        ("loss/train_epoch", "train_loss"),
        ("error/train_epoch", "train_error"),
        ("loss/validation", "validation_loss"),
        ("error/validation", "validation_error"),
        ("topk_error/validation", "validation_topk_error"),
    ):
        told = values(found, tag)
        assert [step for step, _ in told] == [4, 8, 12]
        assert [v for _, v in told] == pytest.approx([r[name] for r in run.history], rel=1e-6)
    within = values(found, "loss/train_within_epoch")
    assert [step for step, _ in within] == [e["step"] for e in events(tmp_path, "progress")]
    assert values(found, "rate")[-1] == (12, pytest.approx(0.002))
    parts = [values(found, f"time/{p}")[-1][1] for p in ("data", "copy", "compute", "checkpoint", "other")]
    assert sum(parts) == pytest.approx(1, abs=1e-3)


def test_a_resumed_run_says_from_where(tmp_path, read, monkeypatch):
    class Stop(Exception):
        pass

    def train_batch(self, batch, real=Trainer._train_batch):
        if self.step == 6:
            raise Stop
        real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_batch", train_batch)
        with pytest.raises(Stop):
            go(tmp_path, tensorboard=True)
    go(tmp_path, tensorboard=True, resume=True)
    found = read(tmp_path / "tensorboard")
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert [e.step for e in found if e.HasField("session_log")] == [1, 5]
    assert [step for step, _ in values(found, "loss/validation")] == [4, 8, 12]


def test_without_it_nothing_is_written(tmp_path):
    go(tmp_path, epochs=1)
    assert not (tmp_path / "tensorboard").exists()


def test_not_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r'needs tensorboardX .*pip install "pyconvnet\[tensorboard\]"'):
        go(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
    assert main(["train", *toys(tmp_path), "--tensorboard", "--out", str(tmp_path / "run")]) == 2
    assert "pyconvnet[tensorboard]" in capsys.readouterr().err


def test_on_a_full_disk_the_run_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    writer, _, _ = tensorboard.require()

    def full(self, event):
        raise OSError(28, "No space left on device")

    def train_batch(self, batch, real=Trainer._train_batch):
        if self.step == 5:
            monkeypatch.setattr(writer.EventsWriter, "write_event", full)
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", train_batch)
    with pytest.warns(RuntimeWarning, match="no more for TensorBoard: .*No space left"):
        run = go(tmp_path, tensorboard=True)
    assert len(run.history) == 3


def test_what_is_no_flag(tmp_path):
    with pytest.raises(TypeError, match="tensorboard must be True or False, got str"):
        go(tmp_path / "run", tensorboard="yes")
