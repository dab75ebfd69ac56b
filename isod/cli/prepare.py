"""``isod prepare``: its options, made from the rows of ``READERS``, and what it does with them."""

from __future__ import annotations

import argparse
from typing import Any

from isod.data.prepare.region import Region
from isod.data.prepare.settings import PrepareSettings
from isod.data.readers import READERS, build_reader
from isod.errors import InputError, unknown
from isod.plugins import is_outside

EXAMPLES = "".join(f"\n  {row.example}" for row in READERS.values())
FORMATS = "".join(f"\n  {name:<24}{row.summary}" for name, row in READERS.items())
DESCRIPTION = f"""Cut the frames of a dataset into a crop store, on all cores of this machine or of a Ray cluster.

formats (`isod prepare FORMAT --help` lists the options of one):{FORMATS}
  package.module:function a function that returns your own reader (isod.data.readers.base.Reader)

examples:{EXAMPLES}
  isod prepare my_package.dataset:reader store --arg root=data
"""


def add_prepare_parser(commands: Any) -> None:
    """Add ``prepare FORMAT …`` to the subcommands. What follows the format is parsed by ``format_parser``."""
    prepare = commands.add_parser(
        "prepare",
        help="cut a dataset's frames into a crop store",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="isod prepare FORMAT … STORE …",
    )
    prepare.add_argument("format", metavar="FORMAT", help=f"{', '.join(READERS)} or package.module:function")
    prepare.add_argument("rest", nargs=argparse.REMAINDER, metavar="…", help="arguments of the format")
    prepare.set_defaults(run=_prepare)


def format_parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of what follows the format's name. Raises InputError if there is no such format."""
    if name not in READERS and not is_outside(name):
        raise unknown("dataset format", name, READERS)
    row = READERS.get(name)
    parser = argparse.ArgumentParser(
        prog=f"isod prepare {name}",
        description=f"Make a crop store of {row.summary}." if row else f"Make a crop store with the reader {name}.",
        epilog=f"example: {row.example}" if row else None,
    )
    for flag, options in row.arguments.items() if row else ():
        parser.add_argument(flag, **options)
    if row is None:
        parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE",
                            help="keyword argument of the function, as text; may be repeated")  # fmt: skip
    parser.add_argument("store", metavar="STORE", help="new folder, or object-storage address (s3://…)")
    defaults = PrepareSettings()
    parser.add_argument(
        "--roi", nargs=4, type=int, metavar=("X0", "Y0", "X1", "Y1"),
        help=f"region of interest, pixels of the full image (default: {row.roi_name if row else 'the whole image'})",
    )  # fmt: skip
    parser.add_argument("--tiles", nargs=2, type=int, metavar=("COLUMNS", "ROWS"),
                        help="cut the region into this many crops, each an example of its own")  # fmt: skip
    parser.add_argument("--resize", nargs=2, type=int, metavar=("W", "H"),
                        help="size of each crop in the store, pixels (default: as it was cut)")  # fmt: skip
    parser.add_argument("--min-visible", type=float, default=defaults.min_visible, metavar="X",
                        help="share of a box that must lie in the crop (default %(default)s)")  # fmt: skip
    parser.add_argument("--jpeg-quality", type=int, default=defaults.jpeg_quality, metavar="N",
                        help="1 to 100, for crops that are encoded again (default %(default)s)")  # fmt: skip
    parser.add_argument("--address", metavar="ADDR",
                        help="Ray cluster that does the work (default: the cores of this machine)")  # fmt: skip
    return parser


def _prepare(options: argparse.Namespace) -> None:
    from isod.data.prepare.chunk import MapChunks
    from isod.data.prepare.job import in_processes, prepare

    name = options.format
    given = format_parser(name).parse_args(options.rest)
    row = READERS.get(name)
    if row is None:
        arguments = _named_values(given.arg)
    else:
        keywords = [flag.lstrip("-").replace("-", "_") for flag in row.arguments]
        arguments = {keyword: getattr(given, keyword) for keyword in keywords}
    roi = Region(*given.roi) if given.roi else row.roi if row else None
    settings = PrepareSettings(
        roi=roi,
        tiles=tuple(given.tiles) if given.tiles else None,
        resize=tuple(given.resize) if given.resize else None,
        min_visible=given.min_visible,
        jpeg_quality=given.jpeg_quality,
    )
    reader = build_reader(name, arguments)
    map_chunks: MapChunks = in_processes
    if given.address is not None:
        from isod.orchestration.prepare import on_cluster

        map_chunks = on_cluster(given.address)
    print(prepare(reader, given.store, settings, map_chunks=map_chunks))


def _named_values(words: list[str]) -> dict[str, str]:
    """Return what ``--arg NAME=VALUE`` gives. Raises InputError for one without a name, or given twice."""
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier() or name in values:
            raise InputError(f"--arg is NAME=VALUE, with each name once, got {word!r}")
        values[name] = value
    return values
