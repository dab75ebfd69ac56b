"""A small second network that predicts the scores of images (Katharopoulos & Fleuret 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHANNELS = 32
LEARNING_RATE = 1e-3


class ScorePredictor:
    """Scores of images without the detector: three convolutions on the image reduced to a quarter, and their mean.

    It is trained beside the detector, on the scores that the detector's training pass gives of the same images, by the
    squared error of log(1 + score). A prediction is above 0, so that every candidate may be chosen. The paper's network
    is a recurrent one that reads an example's past losses; this one reads the image, so that it knows something of
    examples that were never drawn.

    Args:
        seed: of the initial weights; torch's global generator is left as it is.
        device: where it runs, in float32.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = [nn.AvgPool2d(4, ceil_mode=True)]
            for channels in (3, CHANNELS, CHANNELS):
                layers += [nn.Conv2d(channels, CHANNELS, 3, stride=2, padding=1), nn.ReLU()]
            self._layers, self._last = nn.Sequential(*layers).to(device), nn.Linear(CHANNELS, 1).to(device)
        parameters = [*self._layers.parameters(), *self._last.parameters()]
        self._optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)

    def _log_scores(self, images: Tensor) -> Tensor:
        """log(1 + score) [B] of images [B, 3, H, W] uint8."""
        features = self._layers(images.float() / 255 - 0.5)
        return nn.functional.softplus(self._last(features.mean((2, 3)))).squeeze(1)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the predicted scores [B] float32 > 0 of images [B, 3, H, W] uint8."""
        return self._log_scores(images).expm1().clamp(min=1e-6)

    def fit(self, images: Tensor, scores: Tensor) -> None:
        """Take one optimizer step towards the scores [B] ≥ 0 of these images."""
        loss = (self._log_scores(images) - scores.float().log1p()).square().mean()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return weights and optimizer, tensors and plain numbers."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])

    @property
    def _parts(self) -> dict[str, Any]:
        return {"layers": self._layers, "last": self._last, "optimizer": self._optimizer}
