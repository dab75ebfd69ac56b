"""The related work: every sampler beyond the thesis's eight in one grid, with the baseline, LIS and UIS.

    python sweeps/related_work.py                                  # demo data, this machine: all of them × 3 seeds
    python sweeps/related_work.py --samplers baseline loss-rank gradient-norm --seeds 5
    python sweeps/related_work.py --store STORE --preset small     # your data, two cores: days

``isod samplers`` prints the source of each sampler. A run costs as much as one of the thesis's grid; ``LIS-RHO-rank``
also trains a hold-out model, once per seed. The thesis did not run these samplers, so it has no figures to compare
with. On data whose examples are nearly all alike (ESS/N near 1 in the report) none of them can gain much.
"""

import sys

from isod.cli.sweep import main
from isod.config.study import Study
from isod.sampling.samplers import SAMPLERS, THESIS_SAMPLERS

REFERENCES = ("baseline", "LIS", "UIS")
STUDY = Study(
    name="related_work",
    samplers=[sampler for name, sampler in SAMPLERS.items() if name in REFERENCES or name not in THESIS_SAMPLERS],
)

if __name__ == "__main__":
    sys.exit(main(STUDY, __doc__))
