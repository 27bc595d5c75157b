"""The one sampling loop: what each step tells, runs in parts, guidance's two predictions."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.diffusion.ddim import Prediction, ddim_levels, ddim_steps
from customcrafter_core.diffusion.guidance import GuidanceBatch, GuidedUNet
from customcrafter_core.diffusion.schedule import NoiseSchedule
from customcrafter_core.errors import InputError

SHAPE = (1, 4, 2, 3, 3)
SCHEDULE = NoiseSchedule.videocrafter2()
LEVELS = ddim_levels(SCHEDULE, SCHEDULE.ddim_timesteps(8), exact_tail=False)
NOISES = torch.randn(9, *SHAPE, generator=torch.Generator().manual_seed(0))


def predict(x: torch.Tensor, step: int) -> Prediction:
    return Prediction(torch.tanh(x + 0.1 * step))


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("cut", [0, 1, 5, 8])
def test_a_run_in_two_parts_is_the_whole_run_bit_for_bit(eta: float, cut: int) -> None:
    def part(x: torch.Tensor, start: int, stop: int | None) -> torch.Tensor:
        for step in ddim_steps(predict, x, LEVELS, noise=NOISES.__getitem__, eta=eta, start=start, stop=stop):
            x = step.following
        return x

    assert torch.equal(part(part(NOISES[8], 0, cut), cut, None), part(NOISES[8], 0, None))


def test_each_step_tells_what_it_came_from_and_what_it_implies() -> None:
    made = list(ddim_steps(predict, NOISES[8], LEVELS, noise=NOISES.__getitem__, eta=1.0))
    assert [step.step for step in made] == list(range(8))
    assert all(torch.equal(before.following, after.x) for before, after in pairwise(made))
    for step, level in zip(made, LEVELS, strict=False):
        assert torch.allclose(level.signal * step.x0 + level.noise * step.prediction.eps, step.x, atol=1e-5)


def test_noise_is_drawn_once_a_step_and_only_where_it_is_added() -> None:
    def asked(eta: float, exact_tail: bool) -> list[int]:
        steps: list[int] = []

        def noise(step: int) -> torch.Tensor:
            steps.append(step)
            return NOISES[step]

        levels = ddim_levels(SCHEDULE, SCHEDULE.ddim_timesteps(8), exact_tail)
        list(ddim_steps(predict, NOISES[8], levels, noise=noise, eta=eta))
        return steps

    assert asked(1.0, False) == list(range(8))
    assert asked(1.0, True) == list(range(7))
    assert asked(0.0, False) == []
    with pytest.raises(InputError, match="eta"):
        asked(1.5, False)


@pytest.mark.parametrize("batch", [GuidanceBatch.TOGETHER, GuidanceBatch.ONE_BY_ONE])
def test_guidance_tells_its_two_predictions(model: VideoCrafter2, batch: GuidanceBatch) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 4, 2, 6, 8, generator=generator)
    text = torch.randn(2, 1, 77, model.config.text.hidden_size, generator=generator)

    def predicted(cfg: float, **more: bool) -> Prediction:
        with torch.inference_mode():
            return GuidedUNet(model.unet, *text, cfg=cfg, fps=8, batch=batch)(x, 500, **more)

    found, unguided, both = predicted(3.0), predicted(1.0), predicted(1.0, both=True)
    assert found.cond is not None and found.uncond is not None and both.uncond is not None
    assert torch.equal(found.eps, found.uncond + 3.0 * (found.cond - found.uncond))
    assert not torch.allclose(found.cond, found.uncond, atol=1e-3)
    assert unguided.uncond is None and torch.allclose(unguided.eps, found.cond, atol=1e-5)
    assert torch.equal(both.uncond, found.uncond) and torch.allclose(both.eps, unguided.eps, atol=1e-5)
