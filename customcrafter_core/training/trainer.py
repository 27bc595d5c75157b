"""One training run in memory: what is learned, its optimiser and how far it is; it goes forward step by step."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..base_model.model import VideoCrafter2
from ..errors import InputError, some_names
from .batches import BatchSource, seeded_generator
from .config import TrainConfig
from .examples import ExampleSets
from .gradient_checkpointing import gradient_checkpointing
from .learner import TOKEN, Learner
from .methods import METHODS
from .objective import Captions, compute_losses
from .workers import ALONE, Workers

log = logging.getLogger(__name__)

INITIAL = 2**63  # in the place of a step number: the draws of the start
MAX_SKIPPED = 3
"""Steps in a row whose loss or gradient is not finite, after which a run stops."""
HISTORY, LEARNED, OPTIMIZER = "history", "learned", "adamw"
ADAMW_KEYS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainStep:
    """What a step came to; ``prior_loss`` is 0 without a prior. ``step`` counts from 0 over all stages.

    A step that was skipped because its loss or gradient was not finite has NaN as both losses.
    """

    step: int
    steps: int
    loss: float
    prior_loss: float = 0.0

    @property
    def is_skipped(self) -> bool:
        """Whether nothing was learned in it."""
        return math.isnan(self.loss)


class Trainer:
    """A run that can be stopped after any step and continued from its tensors."""

    def __init__(
        self,
        model: VideoCrafter2,
        config: TrainConfig,
        sets: ExampleSets,
        *,
        workers: Workers = ALONE,
        recompute: bool = False,
    ) -> None:
        """Start a run at step 0.

        Args:
            model: the base model; only while `attached` lasts is anything about it different.
            config: all settings.
            sets: what is shown.
            workers: the processes that train together.
            recompute: save memory by computing activations twice.
        """
        self.model, self.config, self.workers = model, config, workers
        self.recompute = recompute
        self.learner = Learner.start(model, config, seeded_generator(config.seed, INITIAL))
        self.done = 0
        self.history: list[TrainStep] = []
        self.went_wrong = False
        """Whether too many steps in a row were skipped: the steps before may have been too large."""
        self._is_moving = False
        self.optimizer = self._optimizer()
        self._source = BatchSource(config, sets, model.schedule, workers.size)
        self._captions = Captions(model)

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.done >= self.config.all_steps

    @property
    def in_token_stage(self) -> bool:
        """Whether V* alone is learned now."""
        return self.done < self.config.token_steps

    def learned_now(self) -> dict[str, nn.Parameter]:
        """The parameters that the current stage moves."""
        named = self.learner.parameters()
        if self.in_token_stage:
            return {TOKEN: named[TOKEN]}
        return named if METHODS[self.config.method].trains_token else {n: p for n, p in named.items() if n != TOKEN}

    def _optimizer(self) -> torch.optim.AdamW:
        config, named = self.config, self.learned_now()
        for name, parameter in self.learner.parameters().items():
            parameter.requires_grad_(name in named)
        token = [parameter for name, parameter in named.items() if name == TOKEN]
        others = [parameter for name, parameter in named.items() if name != TOKEN]
        rates = ((others, config.lr), (token, config.token_lr or config.lr))
        groups = [{"params": some, "lr": rate, "initial_lr": rate} for some, rate in rates if some]
        fused = self.model.device.type in ("cpu", "cuda")
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=fused)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """What is learned is in the model while the context lasts; steps are made inside it."""
        with ExitStack() as stack:
            stack.enter_context(self.learner.attached(self.model))
            if self.recompute:
                stack.enter_context(gradient_checkpointing(self.model.unet))
            stack.enter_context(torch.enable_grad())
            yield

    def step(self) -> TrainStep:
        """Make one step; one whose loss or gradient is not finite moves nothing.

        Raises:
            InputError: so did the two steps before it.
        """
        config = self.config
        losses = self._accumulated()
        gradients = self._gradients()
        values = torch.stack(losses)
        self.workers.average([*gradients, values])
        size = torch.cat([gradient.flatten() for gradient in gradients]).abs().sum()
        *numbers, gradient = torch.cat([values, size[None]]).tolist()  # waits for a GPU, so only once
        is_finite = all(map(math.isfinite, (*numbers, gradient)))
        self._is_moving = True
        if is_finite:
            self._update()
        self.optimizer.zero_grad(set_to_none=True)
        result = TrainStep(self.done, config.all_steps, *(numbers if is_finite else [math.nan] * 2))
        self.history.append(result)
        self.done += 1
        if self.done == config.token_steps:
            self.optimizer = self._optimizer()  # the next stage has moments of its own
        self._is_moving = False
        if not is_finite:
            names = ("loss of the subject", "loss of the prior")[: len(numbers)]
            self._note_skipped(dict(zip((*names, "gradient"), (*numbers, gradient), strict=True)))
        return result

    def _accumulated(self) -> list[torch.Tensor]:
        """The step's mean losses ``[L_video]`` or ``[L_video, L_pr]``, whose gradients are added up part by part."""
        config, parts = self.config, self.config.accumulate
        batches = [batch.part(self.workers.rank, self.workers.size) for batch in self._source.draw(self.done)]
        sums: list[torch.Tensor] = []
        for i in range(parts):
            part = [batch.part(i, parts) for batch in batches] if parts > 1 else batches
            losses = compute_losses(self.model, self._captions, config, part)
            loss = losses[0] + config.prior_weight * losses[1] if len(losses) > 1 else losses[0]
            if loss.requires_grad:  # not if V* alone is learned and no caption of the step holds it
                (loss / parts if parts > 1 else loss).backward()
            values = [value.detach() for value in losses]
            sums = [old + new for old, new in zip(sums, values, strict=True)] if sums else values
        return [value / parts for value in sums] if parts > 1 else sums

    def _update(self) -> None:
        """Move what is learned by the gradients."""
        config = self.config
        if config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.learned_now().values(), config.max_grad_norm)
        if config.lr_schedule != "constant" or config.warmup_steps:
            first = 0 if self.in_token_stage else config.token_steps
            steps = config.token_steps if self.in_token_stage else config.steps
            factor = lr_factor(config, self.done - first, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
        self.optimizer.step()

    def _note_skipped(self, values: Mapping[str, float]) -> None:
        """Stop after `MAX_SKIPPED` in a row.

        Raises:
            InputError: there were so many.
        """
        wrong = next(f"{name} {value}" for name, value in values.items() if not math.isfinite(value))
        if all(step.is_skipped for step in self.history[-MAX_SKIPPED:]) and len(self.history) >= MAX_SKIPPED:
            self.went_wrong = True
            raise InputError(
                expected="a finite loss and gradient",
                found=f"{MAX_SKIPPED} steps in a row without, the last one with {wrong} in step {self.done}",
                remedy="Lower the learning rate and run it again: it goes on from the last checkpoint.",
            )
        log.warning("Step %d was skipped: %s.", self.done, wrong)

    def _gradients(self) -> list[torch.Tensor]:
        """Gradients of what is learned now; zero where the step did not touch it, so that all processes do the same."""
        parameters = self.learned_now().values()
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    def is_whole(self) -> bool:
        """Whether what is learned is worth keeping: finite, and not in the middle of an update."""
        return not self._is_moving and all(bool(torch.isfinite(p).all()) for p in self.learner.parameters().values())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything that continuing bit for bit takes, by name; draws depend on the step alone."""
        history = [(step.loss, step.prior_loss) for step in self.history]
        named = {HISTORY: torch.tensor(history, dtype=torch.float64).reshape(-1, 2)}
        named |= {f"{LEARNED}.{name}": tensor.detach() for name, tensor in self.learner.parameters().items()}
        state, names = self.optimizer.state_dict()["state"], self._names_in_optimizer()
        return named | {
            f"{OPTIMIZER}.{key}.{names[i]}": value for i, own in state.items() for key, value in own.items()
        }

    def load_state_dict(self, named: Mapping[str, torch.Tensor]) -> None:
        """Continue where `state_dict` was taken from a run with the same settings, photos and base model.

        Raises:
            InputError: tensors are missing or of another shape; nothing was changed.
        """
        parameters, history = self.learner.parameters(), named.get(HISTORY)
        wrong = [name for name, parameter in parameters.items() if not _fits(named, name, parameter.shape)]
        if wrong or history is None or history.ndim != 2 or history.shape[1] != 2:
            raise InputError(
                expected="the state of a run with these settings",
                found=f"another, without {some_names(wrong or [HISTORY])}",
                remedy="Start over, or remove the state file.",
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(named[f"{LEARNED}.{name}"])
        self.history = [TrainStep(i, self.config.all_steps, *pair) for i, pair in enumerate(history.tolist())]
        self.done = len(self.history)
        self.optimizer = self._optimizer()
        kept = {i: _optimizer_keys(named, name) for i, name in enumerate(self._names_in_optimizer())}
        state = {i: {key: named[full] for key, full in keys.items()} for i, keys in kept.items() if keys}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def _names_in_optimizer(self) -> list[str]:
        """Names of the parameters in the order in which the optimiser numbers them."""
        names = {id(parameter): name for name, parameter in self.learned_now().items()}
        return [names[id(parameter)] for group in self.optimizer.param_groups for parameter in group["params"]]


def lr_factor(config: TrainConfig, step: int, steps: int) -> float:
    """The learning rate's factor in a step of a stage, counted from 0: diffusers' schedules."""
    from diffusers.optimization import get_scheduler

    unused = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    name = "constant_with_warmup" if config.lr_schedule == "constant" else config.lr_schedule
    schedule = get_scheduler(name, unused, num_warmup_steps=config.warmup_steps, num_training_steps=steps)
    return float(schedule.lr_lambdas[0](step))


def _optimizer_keys(named: Mapping[str, torch.Tensor], name: str) -> dict[str, str]:
    """What the optimiser keeps of a parameter -> the name of its tensor."""
    full = {key: f"{OPTIMIZER}.{key}.{name}" for key in ADAMW_KEYS}
    return {key: one for key, one in full.items() if one in named}


def _fits(named: Mapping[str, torch.Tensor], name: str, shape: torch.Size) -> bool:
    """Whether a parameter is there, with all that the optimiser keeps of it or nothing."""
    kept = _optimizer_keys(named, name)
    shapes = {f"{LEARNED}.{name}": shape} | {one: torch.Size() if key == "step" else shape for key, one in kept.items()}
    return len(kept) in (0, len(ADAMW_KEYS)) and all(n in named and named[n].shape == s for n, s in shapes.items())
