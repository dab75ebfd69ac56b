"""``isod probe``: what a crop store is like, and whether a study of samplers is worth its cost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from isod.cli.options import examples, refuse_unread


def add_probe_parser(commands: Any) -> None:
    """Add ``probe STORE --out DIR`` to the commands."""
    parser = commands.add_parser(
        "probe",
        help="look at a crop store before paying for a study",
        description="Look at a crop store before paying for a study: class tail, empty crops, near-duplicates, boxes "
        "that look wrong; then a short baseline run, and what its scores say. Ends with one sentence: worth a study, "
        "with which samplers, or not.",
        **examples(
            "isod probe demo-store --out probe --minutes 1",
            "isod probe demo-store --out probe --no-training   # labels and pictures only",
        ),
    )
    parser.add_argument("store", metavar="STORE", help="crop store made by `isod prepare`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for probe.html and probe.json")
    parser.add_argument("--minutes", type=float, metavar="M",
                        help="the most that the short run and its scoring take (default: 4)")  # fmt: skip
    parser.add_argument("--no-training", dest="training", action="store_false", help="train nothing, score nothing")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="of the short run (default: auto)")
    parser.add_argument("--threads", type=int, metavar="N", help="torch's CPU threads in the short run (default: 1)")
    parser.set_defaults(run=probe)


def probe(options: argparse.Namespace) -> None:
    """Probe the store, print the summary, and write the page."""
    from isod.console import progress_bar
    from isod.data.store.split import CropStore
    from isod.errors import require
    from isod.files import absolute_uri, folder_lock, output_folder
    from isod.results.probe.page import summary, write_page
    from isod.results.probe.probe import probe_store, write_json
    from isod.training.device import choose_device

    if not options.training:
        given = {"--minutes": options.minutes, "--device": options.device, "--threads": options.threads}
        refuse_unread(given, "is of the short run, which --no-training leaves out: give one of the two")
    minutes = 4.0 if options.minutes is None else options.minutes
    threads = 1 if options.threads is None else options.threads
    require(0 < minutes < float("inf"), "--minutes must be finite and > 0", minutes)
    require(threads >= 1, "--threads must be ≥ 1", threads)
    store = CropStore.open(absolute_uri(options.store))
    out = output_folder(options.out)
    with folder_lock(out):
        found = probe_store(
            store,
            seconds=60 * minutes if options.training else None,
            device=choose_device(options.device or "auto"),
            threads=threads,
            progress=lambda what, unit, count: progress_bar(count, what=what, unit=unit),
        )
        write_json(found, out)
        page = write_page(found, out)
    print(summary(found))
    print(f"page: {page}, and probe.json beside it")
