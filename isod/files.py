"""Reading files that somebody else wrote, and writing ours so that no unfinished one stays."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import stat
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from isod.errors import InputError

log = logging.getLogger(__name__)

LOCK_FILE = ".isod.lock"  # in an output folder, while a process writes there
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # what a file system without locks answers
MAX_JSON = 2**31  # bytes of a dataset's or a store's JSON; COCO's own largest has 0.45 · 10⁹
MAX_IMAGE = 2**29  # bytes of an image file
MAX_PIXELS = 2**28  # of an image, 268 million: 32 times ZOD's; an image that claims more is rejected
CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control characters, half surrogate pairs, line and paragraph separators


def read_file(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the bytes of a regular file. A pipe or device in its place is rejected, as it may never end.

    Args:
        limit: bytes, the most that a file may have.
    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or has more than ``limit`` bytes; the message follows the file's name.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a regular file")
        if status.st_size > limit:
            raise ValueError(f"has {status.st_size} bytes, more than the {limit} that isod reads")
        return file.read(limit)


def parse_json(text: bytes | str) -> Any:
    """Parse JSON as its standard defines it: no NaN or Infinity, no key twice; integers of 4300 digits at most.

    Raises:
        ValueError: it is not JSON, or its nesting is too deep.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("its nesting is too deep") from None


def has_control_characters(name: str) -> bool:
    """Whether a name could move a terminal's cursor or break a line, or is not Unicode text."""
    return not name.isprintable() and any(unicodedata.category(character) in CONTROL for character in name)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"an object has the key {next(k for k in keys if keys.count(k) > 1)!r} twice")
    return content


def output_folder(path: Path) -> Path:
    """Make the folder if it does not exist, and return its absolute path.

    Raises:
        InputError: it is not writable, or an address such as s3://bucket/folder.
    """
    if path.parts and path.parts[0] in ("s3:", "gs:", "az:", "abfs:", "http:", "https:"):
        raise InputError(
            f"{path} is an address, and checkpoints and results need a folder: choose another --out; a sweep takes an "
            "address as --storage"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"cannot write to the folder {path} ({error.strerror}): choose another --out") from None
    return path.resolve()


def private_folder(path: str) -> str | None:
    """Make a folder for temporary files that nobody else can write, and return it; None where that is not to be had."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.lstat(path)
        private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
        with tempfile.TemporaryFile(dir=path):
            return path if private else None
    except OSError:
        return None


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder, which exists: two processes that write to one folder mix their files.

    The kernel frees it when the process ends, however it ends. It holds between the machines that share an NFS or
    another file system with locks; a file system without locks is not protected, and a warning says so.

    Raises:
        InputError: another process holds the lock, or the folder is not writable.
    """
    path = folder / LOCK_FILE
    while True:
        try:
            # Not the folder itself: NFS locks only what is open for writing.
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise InputError(f"cannot write to the folder {folder} ({error.strerror}): choose another one") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(file)
            raise InputError(
                f"{holder} is writing to {folder}: wait until it has ended, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(file)
                raise
            log.warning("%s is on a file system without locks: let no other isod write to it", folder)
            break
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                break
        os.close(file)  # the process that held it has just deleted this file: lock the next one
    try:
        with suppress(OSError):  # a full disk
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)
        os.close(file)


@contextmanager
def atomic_write(path: Path, part: Path | None = None) -> Iterator[Path]:
    """Yield a file beside ``path`` for writing, and move it to ``path`` at the end.

    If anything is raised, ``path`` stays as it was, the other file is deleted, and an OSError names ``path``.

    Args:
        part: the file to write, in the same folder; by default ``path`` with the ending .part.
    """
    part = part or path.with_suffix(".part")
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` for writing, and put it in place of ``path`` at the end, synced to disk.

    If anything is raised, ``path`` stays as it was, the other folder is deleted, and an OSError names ``path``.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        for written in part.rglob("*"):
            if written.is_file():
                with written.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def absolute_uri(uri: str) -> str:
    """Return an address such as s3://… as it is, and the path of a folder as an absolute path."""
    return uri if "://" in uri else str(Path(uri).resolve())
