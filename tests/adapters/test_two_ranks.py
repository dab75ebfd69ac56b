"""Two processes, started by torch's own launcher: the draws of one process, and each score reaches its example."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from isod.sampling import lag_for
from tests.adapters.on_two_ranks import EPOCHS, SAVED
from tests.adapters.test_same_draws import expected, new_table
from tests.sampling.loops import assert_scores_are_of_their_examples

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("library", "lookahead"), [("lightning", 0), ("transformers", 1)])
def test_two_processes_draw_as_one(tmp_path, library, lookahead):
    pytest.importorskip(library, reason=f"needs the extra {library}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.adapters.on_two_ranks", library, str(tmp_path)]
    here = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=here, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

    reference = new_table()
    batches = expected(lag_for(1, lookahead=lookahead), reference, EPOCHS)
    assert_scores_are_of_their_examples(reference)
    for name, first in [("whole", 0), ("resumed", SAVED)]:
        (one, scores), (other, others) = (torch.load(tmp_path / f"{name}-{rank}.pt") for rank in (0, 1))
        assert [a + b for a, b in zip(one, other, strict=True)] == batches[first:], name
        assert scores == others == reference.scores.tolist(), name
