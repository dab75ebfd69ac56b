"""A small grid, over and over, while its processes are killed at random; every number must be the undisturbed grid's.

    python -m tests.system.soak --minutes 60 --out DIR [--seed S] [--every SECONDS]

Kills with -9 a trial, its table actor, its decode worker, the MLflow server (which comes back) or the driver (which is
started again with --resume). Prints the kills by kind, and for every grid how many points were held against those of
the undisturbed one. Exit code 1 if one differs; it also ends if a grid hangs, or leaves a process behind.
"""

import argparse
import random
import secrets
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import ray

from isod.data.demo.zod_layout import write_demo
from isod.data.prepare.job import prepare_demo
from isod.orchestration.cluster import connect
from isod.vocabulary import EXAMPLES, METRICS, MODEL
from tests.system.faults.conftest import (
    TABLE,
    TRIAL,
    WORKER,
    all_end,
    assert_recorded,
    grid_command,
    processes,
    start_driver,
)
from tests.tracking.mlflow_server import MlflowServer
from tests.training.tiny_run import UNTIMED

SAMPLERS = ["baseline", "UIS", "LIS-RB"]
TITLES = {"trial": TRIAL, "table actor": TABLE, "decode worker": WORKER}
DRIVER, SERVER = "driver", "MLflow server"
KINDS = [*TITLES, DRIVER, SERVER]
PATIENCE = 900  # seconds for a grid to end once it is left alone


class Grid:
    """One grid and its driver, which is started again until the grid is finished."""

    def __init__(self, store: str, out: Path, server: MlflowServer) -> None:
        out.mkdir()
        self.name = out.name
        self.starts = 0
        self._out = out
        self._server = server
        self._seen: set[psutil.Process] = set()  # what the drivers have started
        self._command = [*grid_command(store, out, SAMPLERS), "--tracking-uri", server.uri, "--experiment", self.name]
        self.start()

    def start(self) -> None:
        """The driver, with --resume where there is something to go on with."""
        more = ["--resume"] if self.starts else []
        self.starts += 1
        with (self._out / "driver.log").open("a") as log:
            self.driver = start_driver([*self._command, *more], self._out, log)

    def finished(self) -> bool:
        """Whether every run is; a driver that was killed, or gave up (a trial was lost four times), is started again.

        All that a driver had started must have ended soon after it.
        """
        if self.driver.poll() is None:
            self._seen.update(psutil.Process(self.driver.pid).children(recursive=True))
            return False
        all_end(list(self._seen))
        if self.driver.returncode != 0:
            self.start()
            return False
        return True

    def end(self) -> None:
        """Whatever it is doing."""
        self.driver.kill()
        self.driver.wait()

    def strike(self, kind: str, rng: random.Random) -> bool:
        """Kill one process of a kind; False if there is none now."""
        if not processes(TRIAL, self.driver.pid):
            return False  # nothing has begun
        if kind == SERVER:
            self._server.kill()
            time.sleep(rng.uniform(1, 20))
            self._server.start()
            return True
        if kind == DRIVER:
            self.end()  # finished() starts it again
            return True
        victims = processes(TITLES[kind], self.driver.pid)
        if not victims:
            return False
        rng.choice(victims).kill()
        return True

    def files(self, file: str) -> dict[str, Path]:
        """A file that every run leaves, by sampler."""
        return {name: next(self._out.glob(f"runs/*/{name}-seed0/{file}")) for name in SAMPLERS}


def soak(grid: Grid, kills: Counter[str], rng: random.Random, *, every: float, until: float) -> None:
    """Runs a grid to its end; until a moment of time.monotonic(), something is killed every so many seconds."""
    struck_at = time.monotonic()
    pause = rng.expovariate(1 / every)
    while not grid.finished():
        time.sleep(0.2)
        now = time.monotonic()
        assert now - struck_at < PATIENCE, f"{grid.name} hangs"
        if struck_at + pause < now < until:
            kind = rng.choice(KINDS)
            try:
                struck = grid.strike(kind, rng)
            except psutil.NoSuchProcess:
                struck = False  # it ended by itself just now
            if struck:
                kills[kind] += 1
                print(f"  {grid.name}: {kind} killed", flush=True)
                struck_at = time.monotonic()
                pause = rng.expovariate(1 / every)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="of disturbed grids (default 60)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), metavar="S", help="default: a random one")
    parser.add_argument("--every", type=float, default=20.0, metavar="SECONDS", help="between kills, on average")
    options = parser.parse_args()
    out = options.out.resolve()
    if out.exists():
        parser.error(f"--out must be a new folder, {out} exists")
    out.mkdir(parents=True)
    rng, kills = random.Random(options.seed), Counter[str]()

    connect()
    write_demo(out / "zod", frames=80, seed=0)
    prepare_demo(out / "zod", str(out / "store"), resize=(160, 48))
    ray.shutdown()
    server = MlflowServer(f"sqlite:///{out}/server.db", out)
    server.start()
    number = differing = 0
    grid = undisturbed = Grid(str(out / "store"), out / "undisturbed", server)
    try:
        soak(undisturbed, kills, rng, every=options.every, until=0)
        expected = {name: pd.read_csv(path, index_col="iteration") for name, path in undisturbed.files(METRICS).items()}
        assert_recorded(server.uri, undisturbed.name, expected)
        points = sum(int(table.drop(columns=UNTIMED).notna().to_numpy().sum()) for table in expected.values())
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            number += 1
            grid = Grid(str(out / "store"), out / f"grid-{number}", server)
            soak(grid, kills, rng, every=options.every, until=end)
            try:
                assert_recorded(server.uri, grid.name, expected)
                for file in (f"{MODEL}/model.safetensors", EXAMPLES):
                    for name, path in grid.files(file).items():
                        assert path.read_bytes() == undisturbed.files(file)[name].read_bytes(), path
                verdict = f"{points} points of {len(SAMPLERS)} runs, each once and equal to the last bit; equal weights"
            except AssertionError as error:
                differing += 1
                verdict = f"DIFFERS: {error}"
            print(f"{grid.name}: {grid.starts} driver starts; {verdict}", flush=True)
    finally:
        grid.end()
        server.kill()
    print(f"\nkilled (seed {options.seed}, {options.minutes:g} min):")
    for kind in KINDS:
        print(f"  {kind:<14} {kills[kind]:>4}")
    print(f"{number} grids, {differing} differ from the undisturbed one")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
