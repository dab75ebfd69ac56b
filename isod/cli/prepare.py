"""``isod prepare``: its options, made from the rows of ``READERS``, and what it does with them."""

from __future__ import annotations

import argparse
import logging
import shlex
from typing import Any

from isod.cli.options import CommandParser, add_quiet
from isod.console import quiet
from isod.data.prepare.region import Region
from isod.data.prepare.settings import EXIF, PrepareSettings
from isod.data.readers import BY, READERS, build_reader, find_datasets
from isod.errors import InputError, unknown
from isod.plugins import is_outside

logger = logging.getLogger("isod")

AUTO = "auto"
EXAMPLES = "".join(f"\n  {row.example}" for row in READERS.values())
FORMATS = "".join(f"\n  {name:<24}{row.summary}" for name, row in READERS.items())
DESCRIPTION = f"""Cut the frames of a dataset into a crop store, on all cores of this machine or of a Ray cluster.

formats (`isod prepare FORMAT --help` lists the options of one):{FORMATS}
  auto                    whatever a path holds, if that is clear: `isod prepare auto PATH STORE`
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
    prepare.add_argument("format", metavar="FORMAT", help=f"{', '.join(READERS)}, auto or package.module:function")
    prepare.add_argument("rest", nargs=argparse.REMAINDER, metavar="…", help="arguments of the format")
    prepare.set_defaults(run=_prepare)


def format_parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of what follows the format's name. Raises InputError if there is no such format."""
    if name not in READERS and not is_outside(name):
        raise unknown("dataset format", name, (*READERS, AUTO))
    row = READERS.get(name)
    parser = CommandParser(
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
    parser.add_argument("--exif", choices=EXIF, default=defaults.exif,
                        help="turn pictures as their EXIF orientation says: always (apply), never (ignore), or unless "
                        "the annotated size fits the stored pixels alone (default %(default)s)")  # fmt: skip
    names = " and look for images under names that differ a little" if row and row.lenient else ""
    parser.add_argument("--lenient", action="store_true", help=f"keep damaged JPEGs as far as they decode{names}")
    parser.add_argument("--val-share", type=float, metavar="X",
                        help="cut this share of the frames off for validation")  # fmt: skip
    parser.add_argument("--val-by", choices=BY, default=BY[0],
                        help="cut frame by frame, or sequence by sequence, so that neighbours stay together (default "
                        "%(default)s)")  # fmt: skip
    parser.add_argument("--address", metavar="ADDR",
                        help="Ray cluster that does the work (default: the cores of this machine)")  # fmt: skip
    add_quiet(parser)
    return parser


def _prepare(options: argparse.Namespace) -> None:
    name, rest = options.format, options.rest
    if name == AUTO:
        name, *rest = _found(rest)
    given = format_parser(name).parse_args(rest)
    with quiet(given.quiet):
        if options.format == AUTO:
            logger.info("found %s: isod prepare %s", READERS[name].summary, shlex.join([name, *rest]))
        _prepare_as(name, given)


def _prepare_as(name: str, given: argparse.Namespace) -> None:
    """Prepare a dataset of the named format, with the options of its parser."""
    from isod.data.prepare.chunk import MapChunks
    from isod.data.prepare.job import in_processes, prepare
    from isod.data.readers.validation_part import ValidationPartReader

    row = READERS.get(name)
    if row is None:
        arguments = _named_values(given.arg)
    else:
        keywords = [flag.lstrip("-").replace("-", "_") for flag in row.arguments]
        arguments = {keyword: getattr(given, keyword) for keyword in keywords}
        arguments |= {"lenient": given.lenient} if row.lenient else {}
    roi = Region(*given.roi) if given.roi else row.roi if row else None
    settings = PrepareSettings(
        roi=roi,
        tiles=tuple(given.tiles) if given.tiles else None,
        resize=tuple(given.resize) if given.resize else None,
        min_visible=given.min_visible,
        jpeg_quality=given.jpeg_quality,
        exif=given.exif,
        lenient=given.lenient,
    )
    reader = build_reader(name, arguments)
    if given.val_share is not None:
        reader = ValidationPartReader(reader, given.val_share, given.val_by)
    map_chunks: MapChunks = in_processes
    if given.address is not None:
        from isod.orchestration.prepare import on_cluster

        map_chunks = on_cluster(given.address)
    print(prepare(reader, given.store, settings, map_chunks=map_chunks))


def _found(rest: list[str]) -> list[str]:
    """Return the command line, from the format on, of the one dataset that PATH holds.

    Raises:
        InputError: there is none, or it is not clear which; with the commands to choose from.
    """
    if not rest or rest[0].startswith("-"):
        raise InputError("isod prepare auto needs a path: isod prepare auto PATH STORE")
    path, *others = rest
    found = find_datasets(path)
    if not found:
        raise InputError(f"{path} holds no dataset of the formats {', '.join(READERS)}: name the format yourself, see "
                         "isod prepare --help")  # fmt: skip
    words = others or ["STORE"]
    commands = [f"isod prepare {shlex.join([*arguments, *words])}" for arguments in found]
    if len(found) > 1:
        raise InputError(f"{path} may be read in {len(found)} ways, choose one: {'; '.join(commands)}")
    if "--val-share" in found[0] and not any(word.startswith("--val-share") for word in others):
        raise InputError(f"{path} has no validation split; to cut one off, {commands[0]}")
    if not others:
        raise InputError(f"isod prepare auto needs the name of a store, too: {commands[0]}")
    (arguments,) = found
    at = arguments.index("--val-share") if "--val-share" in arguments else len(arguments)
    return [*arguments[:at], *others]


def _named_values(words: list[str]) -> dict[str, str]:
    """Return what ``--arg NAME=VALUE`` gives. Raises InputError for one without a name, or given twice."""
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier() or name in values:
            raise InputError(f"--arg is NAME=VALUE, with each name once, got {word!r}")
        values[name] = value
    return values
