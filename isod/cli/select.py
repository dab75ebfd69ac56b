"""``isod select``: a keep-list of a store's training crops."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isod.cli.options import add_tracking_uri, choose_experiment, choose_tracking, examples, refuse_unread
from isod.errors import InputError, require, unknown
from isod.plugins import is_outside
from isod.sampling.catalogue import HEURISTICS, REDUCTIONS
from isod.sampling.samplers import SamplerConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from isod.data.store.split import CropStore

COLUMNS = {"importance": "mean_importance", "draws": "draw_count"}  # --by → column of examples.parquet
RANDOM, K_CENTRE = "random", "k-centre"
READ_BY = {  # kind of --by → the options that it reads and another kind does not
    RANDOM: {"--seed"},
    K_CENTRE: {"--model", "--device", "--seed"},
    "heuristic": {"--model", "--device", "--reduction"},
    "statistic": {"--run", "--tracking-uri", "--experiment"},
}


def add_select_parser(commands: Any) -> None:
    """Add ``select STORE --keep SHARE --by … --out DIR`` to the commands."""
    parser = commands.add_parser(
        "select",
        help="choose a part of a store's training crops",
        description="Choose a part of a store's training crops and write a keep-list: file names, a COCO json, a YOLO "
        "dataset, and what `--set sampler.subset=` reads.",
        **examples(
            "isod select demo-store --keep 0.3 --by importance --run runs/uis0 --out keep",
            "isod select demo-store --keep 0.3 --by k-centre --model runs/uis0/model --min-per-class 2 --out keep-far",
            "isod select demo-store --keep 0.3 --by random --out keep-random",
        ),
    )
    parser.add_argument("store", metavar="STORE", help="crop store made by `isod prepare`")
    parser.add_argument("--keep", type=float, required=True, metavar="SHARE", help="of the training crops, in (0, 1]")
    parser.add_argument("--by", required=True, metavar="WHAT",
                        help=f"{RANDOM}; of --run: {' or '.join(COLUMNS)}; of --model: {K_CENTRE}, or the highest "
                             f"scores by a heuristic: {', '.join(HEURISTICS)}")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the keep-list")
    parser.add_argument("--run", dest="runs", nargs="+", default=(), metavar="RUN",
                        help="folders of finished runs, or their ids or names in MLflow")  # fmt: skip
    add_tracking_uri(parser, "the database in out/")
    parser.add_argument("--experiment", metavar="NAME",
                        help="of the runs in MLflow (default: MLFLOW_EXPERIMENT_NAME, else search all)")  # fmt: skip
    parser.add_argument("--model", metavar="MODEL", help="folder of a trained model, such as run/model")
    parser.add_argument("--reduction", metavar="NAME",
                        help=f"of a heuristic: {', '.join(REDUCTIONS)} (default: mean)")  # fmt: skip
    parser.add_argument("--min-per-class", type=int, default=0, metavar="N",
                        help="crops to keep of each class, or all that it has (default: %(default)s)")  # fmt: skip
    parser.add_argument("--images", action="store_true", help="write the kept crops, too")
    parser.add_argument("--seed", type=int, metavar="S",
                        help=f"of {RANDOM}, and of {K_CENTRE}'s first crops (default: 0)")  # fmt: skip
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="that --model runs on (default: auto)")
    parser.set_defaults(run=select)


def select(options: argparse.Namespace) -> None:
    """Choose the crops and write the keep-list."""
    by = options.by
    require(0 < options.keep <= 1, "--keep must be in (0, 1]", options.keep)
    require(options.min_per_class >= 0, "--min-per-class must be ≥ 0", options.min_per_class)
    require(options.seed is None or options.seed >= 0, "--seed must be ≥ 0", options.seed)
    if by not in (RANDOM, K_CENTRE, *COLUMNS, *HEURISTICS) and not is_outside(by):
        raise unknown("--by", by, (RANDOM, K_CENTRE, *COLUMNS, *HEURISTICS))
    if by in COLUMNS and not options.runs:
        raise InputError(f"--by {by} needs --run with one or more finished runs")
    if by not in (RANDOM, *COLUMNS) and options.model is None:
        raise InputError(f"--by {by} needs --model with the folder of a trained model")
    given = {
        "--run": options.runs,
        "--tracking-uri": options.tracking_uri,
        "--experiment": options.experiment,
        "--model": options.model,
        "--device": options.device,
        "--reduction": options.reduction,
        "--seed": options.seed,
    }
    given = {flag: value for flag, value in given.items() if flag not in READ_BY[_kind(by)]}
    refuse_unread(given, f"says nothing to --by {by}: choose another --by")
    from isod.data.store.split import CropStore
    from isod.files import absolute_uri, folder_lock, output_folder
    from isod.results.select.write import write_keep_list

    store = CropStore.open(absolute_uri(options.store))
    if not len(store.split("train").readable):
        raise InputError(f"the crop store {store.uri} has no training crop that can be read")
    out = output_folder(options.out)
    with folder_lock(out):
        kept = _choose(options, store)
        write_keep_list(store, kept, out, images=options.images)
    total = len(store.split("train").readable)
    print(f"{len(kept)} of {total} training crops kept by {by}: {out}")
    print(f"train on them: isod train {options.store} --set sampler.subset={out / 'keep.csv'} --out RUN")


def _kind(by: str) -> str:
    """Return the key of READ_BY for a value of ``--by``."""
    return by if by in (RANDOM, K_CENTRE) else "statistic" if by in COLUMNS else "heuristic"


def _choose(options: argparse.Namespace, store: CropStore) -> NDArray[np.int64]:
    """Return the crops to keep, ascending."""
    import numpy as np

    from isod.console import progress_bar
    from isod.results.select.choose import keep_centres, keep_count, keep_first, mean_rank, order_by
    from isod.training.device import choose_device
    from isod.training.examples import labels_of

    by, split, least = options.by, store.split("train"), options.min_per_class
    readable = split.readable
    labels, count = labels_of(split, readable), keep_count(options.keep, len(readable))
    shuffled = np.random.default_rng(options.seed or 0).permutation(readable)
    if by == RANDOM:
        return keep_first(shuffled, count, labels, least)
    if by in COLUMNS:
        from isod.results.select.runs import read_statistics

        where = choose_tracking(options), choose_experiment(options)
        runs = [read_statistics(run, split, *where) for run in options.runs]
        return keep_first(order_by(mean_rank(runs, COLUMNS[by], options.runs), readable), count, labels, least)
    from isod.results.select.model import model_scores, open_model, pooled_features

    device = choose_device(options.device or "auto")
    model = open_model(options.model, split, device)
    with progress_bar(len(readable), what="scoring", unit="crops") as advance:
        if by != K_CENTRE:
            sampler = SamplerConfig(name="select", heuristic=by, reduction=options.reduction or "mean")
            scores = model_scores(model, split, sampler, labels, device=device, advance=advance)
            return keep_first(order_by(scores, readable), count, labels, least)
        indices, features = pooled_features(model, split, device=device, advance=advance)
    mixed = np.random.default_rng(options.seed or 0).permutation(len(indices))
    with progress_bar(count, what="choosing", unit="crops") as advance:
        return keep_centres(features[mixed], indices[mixed], min(count, len(indices)), labels, least, advance)
