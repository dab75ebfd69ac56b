"""Tables with what their samplers need: made labels, the scores of a hold-out model."""

import numpy as np

from isod.sampling import ImportanceTable, Labels


def made_labels(n, classes=3, seed=0, eligible=None):
    """Of n examples: a few objects each, of frequent and rare classes, some of unknown class, some images empty."""
    rng = np.random.default_rng(seed)
    share = 0.2 ** np.arange(classes)
    listed = [rng.choice(classes, rng.integers(0, 4), p=share / share.sum()) + 1 for _ in range(n)]
    listed[0] = np.array([0, 1])
    sizes = [rng.integers(0, 3, len(item)) for item in listed]
    return Labels.from_lists(
        listed, classes, eligible=eligible, segments=[f"drive {i // 7}" for i in range(n)], sizes=sizes
    )


def labelled_table(n, **settings):
    """An ImportanceTable, with ``made_labels`` if its sampler has a prior, and 0 as the hold-out model's scores if it
    subtracts these."""
    table = ImportanceTable(n, **settings)
    if table.config.prior is not None:
        table.set_labels(made_labels(n, eligible=settings.get("eligible")))
    if table.config.holdout:
        table.set_offset(np.zeros(n))
    return table
