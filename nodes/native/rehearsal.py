"""Run a sampler once without its model, to see which of its calls belong to which step.

Some samplers call the model several times in a step, some once, and nothing in a call tells which: what `heun` and `euler`
ask for after their first report is the same. What tells them apart is what follows, so the sampler runs on a few numbers first,
with something in the model's place that answers at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import torch

SIDE = 8
"""Height and width at most of what a rehearsal is done with."""

CALLS_PER_STEP = 64
"""A sampler that asks more often than this has lost its way without the model."""

NETWORK = ("diffusion_model", "apply_model")

Order = list[list[int]]
"""The step of each call of the model: for those before the first report of a step, those after it, after the second, …"""


class NotRehearsed(Exception):
    """The sampler needs more than a stand-in for its model, or has no steps that are fixed beforehand."""


def rehearse(sampler: Any, guider: Any, sigmas: torch.Tensor, options: dict[str, Any], noise: torch.Tensor) -> Order:
    """See in which order a sampler of the host's kind calls the model and reports its steps.

    A report follows the first call of its step in all of the host's samplers, and the last in others; whichever it is in the first
    step, it is in all. Random states are as before afterwards.

    Args:
        sampler: with the host's `Sampler.sample`.
        guider: the host's, of which the model is left out.
        sigmas: of its steps ``(steps + 1,)``.
        options: the host's ``extra_args`` of the sampler.
        noise: in the shape of the latent.

    Raises:
        NotRehearsed: it cannot be known.
    """
    seen = _run(sampler, guider, sigmas, options, noise)
    if seen.reports != list(range(len(sigmas) - 1)) or not _follows(sampler, guider, sigmas, options, noise, seen):
        raise NotRehearsed("it has no fixed steps")
    return _order(seen)


def _run(sampler: Any, guider: Any, sigmas: torch.Tensor, options: dict[str, Any], noise: torch.Tensor) -> _Seen:
    seen = _Seen(limit=CALLS_PER_STEP * len(sigmas))
    small = noise[(..., *(slice(SIDE),) * min(2, noise.ndim - 2))].clone()
    arguments = {**options, "model_options": {"transformer_options": {"sample_sigmas": sigmas}}}
    empty, devices = torch.zeros_like(small), [noise.device] if noise.device.type == "cuda" else []
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=devices):  # samplers change their list, and may seed
            sampler.sample(_Guider(guider, seen), sigmas.clone(), arguments, seen.report, small, empty, None, True)
    except Exception as error:
        raise NotRehearsed(f"{type(error).__name__}: {error}") from error
    finally:
        random.setstate(state)
    return seen


def _follows(
    sampler: Any, guider: Any, sigmas: torch.Tensor, options: dict[str, Any], noise: torch.Tensor, seen: _Seen
) -> bool:
    """Whether a sampler goes along its list: one that chooses levels of its own may report just as many steps."""
    if len(sigmas) < 3 or {float(sigma) for sigma in sigmas[:-1]} <= set(seen.levels):
        return True
    more = torch.cat([sigmas[:1], sigmas[:2].mean(0, keepdim=True), sigmas[1:]])
    return len(_run(sampler, guider, more, options, noise).reports) == len(sigmas)


@dataclass
class _Seen:
    """What a sampler did."""

    limit: int
    reports: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=lambda: [0])
    """How many before the first report, between that and the second, …"""
    levels: list[float] = field(default_factory=list)
    """The noise level that each call tells the model."""

    def call(self, sigma: torch.Tensor) -> None:
        self.calls[-1] += 1
        self.levels.append(float(sigma.max()))
        if sum(self.calls) > self.limit:
            raise NotRehearsed("it does not end")

    def report(self, step: int, *_: Any) -> None:
        self.reports.append(int(step))
        self.calls.append(0)


def _order(seen: _Seen) -> Order:
    """Of the calls before a report as many are of its step as there were in the first one; the others are of the step before."""
    lead, order = seen.calls[0], [[seen.reports[0]] * seen.calls[0]]
    for before, step, calls in zip(seen.reports, seen.reports[1:], seen.calls[1:-1], strict=False):
        own = min(lead, calls)
        order.append([before] * (calls - own) + [step] * own)
    return [*order, [seen.reports[-1]] * seen.calls[-1]]


class _Without:
    """An object of the host's as a sampler may look at it, without what would run the network."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        if name in NETWORK:
            raise NotRehearsed(f"it asks for {name}")
        found = getattr(self._of, name)
        return _Without(found) if name == "model" else found


class _Guider(_Without):
    """In the guider's place: half of what it is given, at once."""

    def __init__(self, of: Any, seen: _Seen) -> None:
        super().__init__(of)
        self._seen = seen
        self.inner_model, self.model_patcher = _Without(of.inner_model), _Without(of.model_patcher)

    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, model_options: dict[str, Any] | None = None, seed: Any = None
    ) -> torch.Tensor:
        self._seen.call(sigma)
        denoised = x / 2
        for function in (model_options or {}).get("sampler_post_cfg_function", []):
            denoised = function(
                {
                    "denoised": denoised, "cond": [], "uncond": [], "cond_scale": 1.0, "model": self.inner_model,
                    "uncond_denoised": denoised, "cond_denoised": denoised, "sigma": sigma,
                    "model_options": model_options, "input": x,
                }
            )  # fmt: skip
        return denoised
