"""Tells the page at which noise the steps of VideoCrafter2 begin, for what a node says while its sliders move."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import comfy.samplers

from ..customcrafter_core.diffusion.schedule import TRAIN_TIMESTEPS
from . import host

if TYPE_CHECKING:
    from aiohttp import web

ADDRESS = "/customcrafter/levels"


def serve() -> None:
    """Answer the page."""
    host.server().routes.get(ADDRESS)(answer)


async def answer(request: web.Request) -> web.Response:
    """The levels for the sampler, scheduler, steps and denoise of a query; a list of (sigma, timestep)."""
    from aiohttp import web

    query = request.query
    try:
        steps, denoise = int(query["steps"]), float(query["denoise"])
        if not (1 <= steps <= TRAIN_TIMESTEPS and 0 < denoise <= 1):
            raise ValueError("out of range")
        return web.json_response(levels(query["sampler_name"], query["scheduler"], steps, denoise))
    except (KeyError, ValueError) as error:
        return web.json_response({"error": str(error)}, status=400)


def levels(sampler: str, scheduler: str, steps: int, denoise: float) -> list[list[float | None]]:
    """As a node's inputs name them."""
    from ..customcrafter_core.diffusion.schedule import NoiseSchedule
    from .native.sampling_space import VideoCrafter2Sampling
    from .native.strength_plan import levels_of

    sampling = VideoCrafter2Sampling(NoiseSchedule.videocrafter2())
    model: Any = SimpleNamespace(get_model_object=lambda name: sampling)
    plan = comfy.samplers.KSampler(
        model, steps=steps, device="cpu", sampler=sampler, scheduler=scheduler, denoise=denoise, model_options={}
    )
    return levels_of([float(sigma) for sigma in plan.sigmas], sampling)
