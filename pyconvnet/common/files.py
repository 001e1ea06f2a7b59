"""Files: written whole or not at all, named where the system refuses, held by one process at a time.

A file is written beside its target, synced to disk, and renamed over it: whoever reads the target sees the
old file or the new one, never half of either.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]+\.tmp")
_held: set[int] = set()  # descriptors of locked files


class LockedError(RuntimeError):
    """Somebody else holds what is asked for; the message says who."""


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Make an error of the system inside name ``path``: that of a full disk names no file, that of a
    temporary file one nobody knows.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomically(path: str | Path, data: bytes | Iterable[Any]) -> Path:
    """Write bytes, or an iterable of pieces of them, to a temporary file in the same folder, sync, rename,
    sync the folder.

    Raises
    ------
    OSError
        The disk is full, the folder cannot be written, ...; it names ``path``, where nothing has changed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid():x}{os.urandom(4).hex()}.tmp")
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(temporary, "xb")  # noqa: SIM115
        try:
            for piece in [data] if isinstance(data, bytes) else data:  # what fails in between is not ours
                with naming(path):
                    file.write(piece)
            with naming(path):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with naming(path):
                file.close()
        with naming(path):
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)
    return path


def remove_partial(folder: str | Path, name: str | None = None) -> None:
    """Delete what writers that were killed left half written in a folder: of the file ``name``, or of all."""
    for path in Path(folder).glob(".*.tmp"):
        found = _PARTIAL.fullmatch(path.name)
        if found and name in (None, found[1]):
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # a file system that cannot open folders: the rename itself is still atomic
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(path: str | Path, what: str | None = None) -> Iterator[None]:
    """Hold a lock file, and with it what it stands for; only one holder at a time, in this process or others.

    The system itself lets go when the holder ends, however it ends. The file says who holds it (host,
    process, since when) and is removed at the end. Where there are no locks (Windows, some network file
    systems) nothing is held. Processes forked meanwhile do not hold it.

    Parameters
    ----------
    path : path
        Made if need be, in a folder that is there.
    what : str, optional
        What it stands for, for the message. None: wait instead of raising.

    Raises
    ------
    LockedError
        Somebody else holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path, owner = Path(path), os.getpid()
    while True:
        with naming(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _held.add(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if what is None else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = _holder(handle)
            _let_go(handle)
            raise LockedError(f"{what} is in use by {holder}") from None
        except OSError:  # a file system without locks
            pass
        except BaseException:  # Ctrl-C while waiting
            _let_go(handle)
            raise
        if _is_at(handle, path):
            break
        _let_go(handle)  # its last holder has just removed it
    try:
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        note = json.dumps({"process": owner, "host": socket.gethostname(), "since": since})
        with contextlib.suppress(OSError):  # a full disk: held all the same
            os.ftruncate(handle, 0)
            os.pwrite(handle, note.encode(), 0)
        yield
    finally:
        if os.getpid() == owner:
            with contextlib.suppress(OSError):
                path.unlink()
            _let_go(handle)


def held_by(path: str | Path) -> str | None:
    """Say who holds a lock file of :func:`locked`; None where nobody does, or nothing can be held.

    Whoever wants to hold it in this very moment is refused.
    """
    try:
        import fcntl

        handle = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _holder(handle)
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _holder(handle: int) -> str:
    try:
        note = json.loads(os.pread(handle, 1000, 0))
        return f"process {note['process']} on {note['host']} since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not yet written, or could not
        return "another process"


def _let_go(handle: int) -> None:
    _held.discard(handle)
    os.close(handle)


def _forked() -> None:
    """Close a forked child's copies of the descriptors, which would keep locks when the parent is dead."""
    for handle in list(_held):
        _let_go(handle)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
