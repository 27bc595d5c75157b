"""Which of a run's steps a sampler does: all of them, or, with its list split over several samplers, a part."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...customcrafter_core.errors import InputError

AT_THE_TOP = 0.98
"""Of a model's first sigma: a list that begins no lower begins at pure noise."""


@dataclass(frozen=True)
class Part:
    """A sampler's steps among those of the whole run."""

    sigmas: tuple[float, ...]
    """Of its own steps ``(steps + 1)``."""
    start: int = 0
    """Steps of the whole run before its own."""
    total: int | None = None
    """Steps of the whole run; None if that is not known."""
    placed: bool = True
    """Whether it is known where it begins; otherwise its steps are counted from its own first."""

    @property
    def steps(self) -> int:
        """How many of them it does."""
        return len(self.sigmas) - 1


def told_part(sigmas: torch.Tensor, start: int, total: int) -> Part:
    """A part as told by a user: the steps before it, and all steps of the run or 0 if it ends with this sampler.

    Raises:
        InputError: that cannot be, or is not what the sampler's list is a part of.
    """
    own = tuple(float(sigma) for sigma in sigmas)
    end = start + len(own) - 1
    if total and end > total:
        raise InputError(
            expected=f"a sampler that ends by step {total}, the total_steps",
            found=f"one that runs from step {start} to step {end}",
            remedy="Set total_steps and start_at_step to KSampler Advanced's steps and start_at_step; some schedulers, such as "
            "ddim_uniform, make one step more than asked.",
        )
    whole = _whole(sigmas)
    if whole is not None and total == whole[1] and start != whole[0]:
        raise InputError(
            expected=f"start_at_step {whole[0]}, where this sampler's part of the sigmas begins",
            found=f"start_at_step {start}: steps would be missing or count twice",
            remedy="Set start_at_step to 0, so that the list itself tells it, or to the sampler's own.",
        )
    return Part(own, start, total or (None if own[-1] > 0 else end))


def part_of(sigmas: torch.Tensor, adds_noise: bool, first_sigma: float) -> Part:
    """What a sampler's list ``(steps + 1,)`` says of its place in a run.

    The list of a part is cut out of that of the whole run, of which the host keeps the rest. With noise added, a list that begins
    in the middle is a run of its own on a given video (denoise below 1).
    """
    own = tuple(float(sigma) for sigma in sigmas)
    whole, leaves_noise = _whole(sigmas), own[-1] > 0
    if own[-1] > own[0]:  # back to noise
        return Part(own, total=len(own) - 1)
    continues = not adds_noise and (own[0] < AT_THE_TOP * first_sigma if whole is None else whole[0] > 0)
    if continues:
        return Part(own, placed=False) if whole is None else Part(own, *whole)
    if not leaves_noise:
        return Part(own, total=len(own) - 1)
    return Part(own, total=None if whole is None else whole[1] - whole[0])


def _whole(sigmas: torch.Tensor) -> tuple[int, int] | None:
    """Of the list that sigmas were cut out of: where they begin, and its number of steps; None if they were not.

    Splitting nodes and the host's own samplers cut by slicing, which shares the memory of the whole list.
    """
    if sigmas.ndim != 1 or sigmas.stride(0) != 1:
        return None
    length = sigmas.untyped_storage().nbytes() // sigmas.element_size()
    if length <= len(sigmas) or length > 10001:
        return None
    whole = torch.empty(0, dtype=sigmas.dtype, device=sigmas.device).set_(sigmas.untyped_storage(), 0, (length,))
    falls = bool((whole[1:] < whole[:-1]).all())
    return (sigmas.storage_offset(), length - 1) if falls and float(whole[-1]) == 0 else None
