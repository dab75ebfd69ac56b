"""Online batch selection: which of a step's candidates train (Loshchilov & Hutter 2015).

A step draws m·B candidates, scores them in one forward pass without gradients, and trains on B of them. A selection is
a function of the scores [n], of the number B, and of a random generator of the step's own. It returns the places of
those that train and the weights of their losses, one after the other.

To add one, write a function here and give it a row of ``isod.sampling.catalogue.SELECTIONS``. One of another package
needs no row: a sampler names it, ``selection="my_package.selections:mine"``.

Importing this module imports numpy alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from isod.sampling.examples import FloatArray, IntArray


class Selected(NamedTuple):
    """What trains."""

    places: IntArray  # [B], among the candidates; the same one may occur several times
    weights: FloatArray  # [B], for the losses


def top(scores: FloatArray, count: int, rng: np.random.Generator) -> Selected:
    """Return the candidates with the highest scores, of equal ones the first (Kawaguchi & Lu 2020, ordered SGD)."""
    return Selected(np.argsort(-scores, kind="stable")[:count], np.ones(count))


def proportional(scores: FloatArray, count: int, rng: np.random.Generator) -> Selected:
    """Draw with replacement in proportion to the scores ≥ 0, with weights 1/(n·p) (Katharopoulos & Fleuret 2018).

    The weighted mean over those that train estimates the mean over the candidates, without bias as far as a candidate
    with score 0 has nothing to give. All are alike where all scores are 0.
    """
    total = scores.sum()
    p = scores / total if total > 0 else np.full(len(scores), 1 / len(scores))
    places = rng.choice(len(scores), count, p=p)
    return Selected(places, 1 / (len(scores) * p[places]))


def percentile(scores: FloatArray, count: int, rng: np.random.Generator) -> Selected:
    """Draw without replacement, each candidate with a probability in proportion to its percentile^(n/B − 1).

    That is selective backprop (Jiang et al. 2019), which keeps an example with the probability CDF(loss)^β: with
    β = n/B − 1 that keeps B of n. The paper compares with the losses seen last and keeps as many as it happens to; here
    it is the candidates, and B of them: their probabilities, in random order, are read off at equal distances.
    """
    n = len(scores)
    ranks = np.empty(n)
    ranks[np.argsort(scores, kind="stable")] = np.arange(n)
    kept = ((ranks + 0.5) / n) ** (n / count - 1)
    order = rng.permutation(n)
    marks = np.cumsum(kept[order]) * (count / kept.sum())
    marks[-1] = count  # whatever rounding made of it
    return Selected(order[np.searchsorted(marks, rng.random() + np.arange(count))], np.ones(count))
