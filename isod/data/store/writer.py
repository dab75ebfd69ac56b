"""Writing a crop store: rows → Lance fragments → one commit per split → store.json last.

Any process writes fragments in any order; they stay invisible until the commit names them in order. So a job can be
stopped at any moment and resumed, and nobody can open an unfinished store.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.fs

from isod.data.objects import Annotation
from isod.data.store.address import filesystem
from isod.data.store.checksums import Checksum, compute_checksums
from isod.data.store.meta import SCHEMA
from isod.data.store.split import import_lance
from isod.errors import InputError
from isod.vocabulary import Split


@dataclass(frozen=True)
class Row:
    """One frame, or one tile of it, on its way into the store; either ``image`` or ``error`` is None."""

    index: int
    frame_id: str
    image: bytes | None  # RGB JPEG
    error: str | None  # why it was lost
    objects: Annotation  # crop pixels; none if lost
    size: tuple[int, int]  # (height, width) of the crop, pixels; (0, 0) if lost
    remarks: Mapping[str, int] = field(default_factory=dict)  # what was done with the frame → how often; not stored


def write_fragment(uri: str, split: Split, rows: Sequence[Row]) -> str:
    """Write rows as one uncommitted Lance fragment. Returns its description (JSON) for ``commit``."""
    import_lance()
    from lance.fragment import write_fragments

    table = pa.Table.from_pydict(
        {
            "index": [row.index for row in rows],
            "frame_id": [row.frame_id for row in rows],
            "image": [row.image for row in rows],
            "error": [row.error for row in rows],
            "boxes": [row.objects.boxes.ravel() for row in rows],
            "labels": [row.objects.labels for row in rows],
            "dont_care": [row.objects.dont_care for row in rows],
            "size": [row.size for row in rows],
        },
        schema=SCHEMA,
    )
    fragments = write_fragments(table, _dataset_uri(uri, split), schema=SCHEMA, mode="overwrite")
    assert len(fragments) == 1, "a chunk is far below Lance's rows per file"
    return json.dumps(fragments[0].to_json())


def commit(uri: str, split: Split, fragments: Sequence[str]) -> dict[str, Checksum]:
    """Make a split of these fragments, in this order, and delete the files that an interrupted job left behind.

    Args:
        fragments: what ``write_fragment`` returned.
    Returns:
        The checksums of the split's files, for store.json.
    """
    lance = import_lance()
    from lance.fragment import FragmentMetadata

    described = [FragmentMetadata.from_json(text) for text in fragments]
    lance.LanceDataset.commit(_dataset_uri(uri, split), lance.LanceOperation.Overwrite(SCHEMA, described))
    files, path = filesystem(_dataset_uri(uri, split))
    named = {file["path"] for text in fragments for file in json.loads(text)["files"]}
    selector = pyarrow.fs.FileSelector(f"{path}/data", allow_not_found=True)
    for info in files.get_file_info(selector):
        if info.base_name not in named:
            files.delete_file(info.path)
    return compute_checksums(files, path)


@contextmanager
def disk_full_is_bad_input(uri: str) -> Iterator[None]:
    """Turn "no space left", from Python or from Lance, into an InputError of one sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if is_disk_full(error):
            raise InputError(
                f"the disk that holds {uri} is full: free some space and run the same command again; finished chunks "
                "are kept"
            ) from None
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that no space is left; Lance's errors say so only in their text."""
    number = getattr(error, "errno", None)
    said = ("No space left on device", "Disk quota exceeded")
    return number in (errno.ENOSPC, errno.EDQUOT) or any(text in str(error) for text in said)


def _dataset_uri(uri: str, split: Split) -> str:
    return f"{uri}/{split}.lance"
