"""What somebody else's package might provide: a heuristic, a reduction, a strategy and a prior."""

import numpy as np
import torch

from isod.sampling.strategies.base import Slots


def squared_loss(outcome):
    """Needs nothing but the losses, so it names no ``needs``."""
    return outcome.class_loss.square(), outcome.box_loss.square()


def greedy_logits(outcome):
    return outcome.logits.amax(1), torch.zeros_like(outcome.box_loss)


greedy_logits.needs = {"logits"}


def second_largest(part):
    return part.means.topk(2, dim=1).values[:, 1]


class Highest:
    """Draws the highest score in every slot."""

    draws_in_proportion = False
    accepts_negative_scores = True
    nbytes = 0

    def __init__(self, examples, config):
        self.examples = examples

    def draw(self, t, n, previous):
        best = int(np.argmax(self.examples.score))
        return Slots(np.full(n, best), np.ones(n))

    def changed(self, indices): ...

    def rebuild(self): ...

    def probabilities(self, indices):
        return (np.asarray(indices) == np.argmax(self.examples.score)).astype(float)

    def importance(self):
        return self.examples.score.astype(float)

    def state_dict(self):
        return {}

    def load_state_dict(self, state): ...


class Errors:
    """A prior that follows the training, but for what a test takes away from it."""

    observes = "error"

    def __init__(self, labels, config):
        self.labels = labels

    def prior(self):
        return np.ones(len(self.labels))

    def observe(self, indices, weights, observed): ...

    def close_window(self): ...

    def state_dict(self):
        return {}

    def load_state_dict(self, state): ...
