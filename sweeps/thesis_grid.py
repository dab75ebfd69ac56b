"""The thesis's grid: every sampler with every seed, recorded in MLflow, ending in the speed-up table and a report.

    python sweeps/thesis_grid.py                                   # demo data, this machine, minutes
    python sweeps/thesis_grid.py --store STORE --preset small      # your data, two cores, hours
    python sweeps/thesis_grid.py --store STORE --preset thesis --address auto --tracking-uri http://127.0.0.1:5000

The last one is §4.5 of the thesis to the letter: 10 seeds per sampler, 246 thousand iterations each, 40 to 50 hours a
run on the thesis's A100. The thesis found UIS +95 %, UIS-IR +129 %, and no speed-up for LIS and LIS-IR.
"""

from __future__ import annotations

import sys

from isod.cli.sweep import Study, main
from isod.sampling.samplers import SAMPLERS, THESIS_SAMPLERS

STUDY = Study(name="thesis_grid", samplers=[SAMPLERS[name] for name in THESIS_SAMPLERS])

if __name__ == "__main__":
    sys.exit(main(STUDY, __doc__))
