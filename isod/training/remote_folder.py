"""The folder of a run in object storage, where the machines that train share no file system.

The run itself works in a copy on its machine's disk, which each checkpoint brings up to date in the storage.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.fs

from isod.data.store.address import filesystem
from isod.errors import InputError, one_line
from isod.vocabulary import MODEL

PATIENCE = 300.0  # seconds that a run waits at its beginning and its end for storage that does not answer
LONGEST_PAUSE = 15.0  # seconds between two attempts
LAST = f"{MODEL}/model.json"  # stored last: with it the run has finished
PASSING = (".part", ".damaged")  # endings of files that stay behind

Stamp = tuple[int, int]  # size and time of change


class RemoteFolder:
    """A folder at an address such as s3://bucket/runs/UIS-seed0.

    Attributes:
        uri: its address.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._stored: dict[str, Stamp] = {}  # file of the copy → as it was when it was last the same here and there

    @contextmanager
    def opened(self, patience: float = PATIENCE) -> Iterator[Path]:
        """Yield a copy on this machine's disk, which goes at the end. Raises InputError if the storage does not answer
        for so many seconds."""
        with tempfile.TemporaryDirectory(prefix="isod-run-", ignore_cleanup_errors=True) as copy:
            self._patiently("read", lambda: self._fetch(Path(copy)), patience)
            yield Path(copy)

    @contextmanager
    def worked_in(self) -> Iterator[Path]:
        """As ``opened``, and at the end, unless by an exception, everything in the copy is stored."""
        with self.opened() as copy:
            yield copy
            self._patiently("written", lambda: self.store(copy), PATIENCE)

    def store(self, copy: Path) -> None:
        """Store what is new or changed in the copy, and delete what is gone there. A checkpoint follows what must be
        there for it, and the last file of the model follows all. Raises OSError if it fails: the next call does the
        rest."""
        files, root = pyarrow.fs.FileSystem.from_uri(self.uri)
        here = {
            path.relative_to(copy).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in copy.rglob("*")
            if path.is_file() and path.suffix not in PASSING
        }
        for name in sorted(here, key=_place):
            if self._stored.get(name) != here[name]:
                target = f"{root}/{name}"
                files.create_dir(target.rpartition("/")[0], recursive=True)
                pyarrow.fs.copy_files(str(copy / name), target, pyarrow.fs.LocalFileSystem(), files)
                self._stored[name] = here[name]
        for name in self._stored.keys() - here.keys():
            with suppress(FileNotFoundError):  # deleted by a call that failed afterwards
                files.delete_file(f"{root}/{name}")
            del self._stored[name]

    def drop_checkpoints(self) -> None:
        """Delete the checkpoints of a run that will not be resumed; those that cannot be deleted stay."""
        with suppress(OSError):
            files, root = pyarrow.fs.FileSystem.from_uri(self.uri)
            for name in self._names(files, root):
                if name.startswith("checkpoint-"):
                    files.delete_file(f"{root}/{name}")

    def _fetch(self, copy: Path) -> None:
        files, root = pyarrow.fs.FileSystem.from_uri(self.uri)
        names = self._names(files, root)
        for name in names:
            if name.startswith(f"{MODEL}/") and LAST not in names:
                continue  # of a run that ended while it stored its model
            path = copy / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.fs.copy_files(f"{root}/{name}", str(path), files, pyarrow.fs.LocalFileSystem())
            self._stored[name] = (path.stat().st_size, path.stat().st_mtime_ns)

    @staticmethod
    def _names(files: pyarrow.fs.FileSystem, root: str) -> list[str]:
        found = files.get_file_info(pyarrow.fs.FileSelector(root, recursive=True, allow_not_found=True))
        return [info.path[len(root) + 1 :] for info in found if info.is_file]

    def _patiently(self, done: str, work: Callable[[], None], patience: float) -> None:
        end, pause = time.monotonic() + patience, 1.0
        while True:
            try:
                return work()
            except OSError as error:
                if time.monotonic() + pause > end:
                    raise InputError(
                        f"{self.uri} cannot be {done} ({one_line(error)}): see that its server answers and takes your "
                        "credentials, and resume"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _place(name: str) -> tuple[bool, bool, bool, str]:
    """Return the key by which files are stored in order."""
    return name == LAST, name.startswith(f"{MODEL}/"), name.startswith("checkpoint-"), name


def require_storage(uri: str) -> None:
    """Raise InputError unless files can be written and deleted at an address."""
    files, root = filesystem(uri)
    probe = f"{root}/isod-can-write-{uuid.uuid4().hex}"
    try:
        files.create_dir(root, recursive=True)
        with files.open_output_stream(probe) as stream:
            stream.write(b"")
        files.delete_file(probe)
    except OSError as error:
        raise InputError(
            f"cannot write to {uri} ({one_line(error)}): check the address, that its server answers, and your "
            "credentials"
        ) from None
