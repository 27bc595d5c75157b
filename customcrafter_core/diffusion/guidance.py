"""The UNet as a noise predictor with classifier-free guidance."""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING

import torch

from ..errors import is_out_of_memory
from .ddim import Prediction

if TYPE_CHECKING:
    from diffusers import UNet3DConditionModel

log = logging.getLogger(__name__)


class GuidanceBatch(str, Enum):
    """How the two predictions of guidance run: together is faster, one by one needs less memory.

    `AUTO` is together while memory suffices. A CPU does not say when it is short; there `memory.sampling` counts before.
    """

    AUTO = "auto"
    TOGETHER = "together"
    ONE_BY_ONE = "one-by-one"


class GuidedUNet:
    """``uncond + cfg · (cond - uncond)``; with ``cfg = 1`` only the conditional prediction is made."""

    def __init__(
        self,
        unet: UNet3DConditionModel,
        cond: torch.Tensor,
        uncond: torch.Tensor,
        *,
        cfg: float,
        fps: int,
        batch: GuidanceBatch = GuidanceBatch.AUTO,
    ) -> None:
        """Args:
        unet: VideoCrafter2's UNet.
        cond: text embeddings of the prompt ``(b, n, d)``.
        uncond: text embeddings of the negative prompt, the same shape.
        cfg: guidance scale.
        fps: frames per second the network is told.
        batch: `AUTO` runs both together until the device says that it is out of memory, then one by one.
        """
        self.unet, self.cond, self.uncond, self.cfg, self.fps = unet, cond, uncond, cfg, fps
        self.batch = batch

    def __call__(self, x: torch.Tensor, timestep: int, *, both: bool = False) -> Prediction:
        """Predict the noise in ``x (b, c, t, h, w)`` at a timestep, in float32.

        Args:
            x: the noisy latent.
            timestep: 0 … 999.
            both: make the prediction without the prompt with ``cfg = 1`` too.
        """
        if self.cfg == 1.0 and not both:
            cond = self._predict(x, timestep, self.cond)
            return Prediction(cond, cond)
        cond, uncond = self._both(x, timestep)
        return Prediction(uncond + self.cfg * (cond - uncond), cond, uncond)

    def _both(self, x: torch.Tensor, timestep: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.batch is not GuidanceBatch.ONE_BY_ONE:
            try:
                cond, uncond = self._predict(torch.cat([x, x]), timestep, torch.cat([self.cond, self.uncond])).chunk(2)
                return cond, uncond
            except (RuntimeError, MemoryError) as error:
                if self.batch is GuidanceBatch.TOGETHER or not is_out_of_memory(error):
                    raise
                log.warning("Out of memory with both predictions of guidance together; going on one by one.")
                self.batch = GuidanceBatch.ONE_BY_ONE
        return self._predict(x, timestep, self.cond), self._predict(x, timestep, self.uncond)

    def _predict(self, x: torch.Tensor, timestep: int, text: torch.Tensor) -> torch.Tensor:
        unet = self.unet
        fps = torch.full((len(x),), self.fps, device=x.device)
        time = torch.full((len(x),), timestep, device=x.device)  # a number would be copied, which waits for a GPU
        eps = unet(x.to(unet.dtype), time, text.to(x.device, unet.dtype), timestep_cond=fps, return_dict=False)[0]
        return eps.float()
