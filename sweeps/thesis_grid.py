"""The thesis's grid: its eight samplers with each seed, recorded in MLflow, then the speed-up table and a report.

    python sweeps/thesis_grid.py                                   # demo data, this machine, minutes
    python sweeps/thesis_grid.py --store STORE --preset small      # your data, two cores, hours
    python sweeps/thesis_grid.py --store STORE --preset thesis --address auto --tracking-uri http://127.0.0.1:5000

The last command is §4.5 of the thesis to the letter: 10 seeds per sampler and 246 thousand iterations per run. A run
took 40 to 50 hours on the thesis's A100. The thesis found a speed-up of 95 % for UIS and of 129 % for UIS-IR, and none
for LIS and LIS-IR.
"""

from __future__ import annotations

import sys

from isod.cli.sweep import main
from isod.config.study import Study
from isod.sampling.samplers import SAMPLERS, THESIS_SAMPLERS

STUDY = Study(name="thesis_grid", samplers=[SAMPLERS[name] for name in THESIS_SAMPLERS])

if __name__ == "__main__":
    sys.exit(main(STUDY, __doc__))
