"""One training run in memory: what is learned, its optimiser and how far it is; it goes forward step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
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

INITIAL = 2**63  # in the place of a step number: the draws of the start
PROBE = 2**63 + 1  # the draws of the probe
PROBE_DRAWS = 8
HISTORY, LEARNED, OPTIMIZER = "history", "learned", "adamw"
ADAMW_KEYS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainStep:
    """What a step came to; ``prior_loss`` is 0 without a prior. ``step`` counts from 0 over all stages."""

    step: int
    steps: int
    loss: float
    prior_loss: float = 0.0


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
        """Whether a loss or gradient was not finite: nothing moved, but the steps before may have been too large."""
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
        groups = [{"params": others, "lr": config.lr}] if others else []
        groups += [{"params": token, "lr": config.token_lr or config.lr}] if token else []
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
        """Make one step.

        Raises:
            InputError: the loss is not finite; nothing has moved.
        """
        config = self.config
        losses = self._losses(self.done)
        loss = losses[0] + config.prior_weight * losses[1] if len(losses) > 1 else losses[0]
        if loss.requires_grad:  # not if V* alone is learned and no caption of the step holds it
            loss.backward()
        gradients = self._gradients()
        values = torch.stack([value.detach() for value in (loss, *losses)])
        self.workers.average([*gradients, values])
        size = torch.cat([gradient.flatten() for gradient in gradients]).abs().sum()
        total, *numbers, gradient = torch.cat([values, size[None]]).tolist()  # waits for a GPU, so only once
        named = dict(zip(("loss of the subject", "loss of the prior"), numbers, strict=False))
        self._check_finite({**named, "loss": total, "gradient": gradient}, f"in step {self.done + 1}")
        self._is_moving = True
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        result = TrainStep(self.done, config.all_steps, *numbers)
        self.history.append(result)
        self.done += 1
        if self.done == config.token_steps:
            self.optimizer = self._optimizer()  # the next stage has moments of its own
        self._is_moving = False
        return result

    def _gradients(self) -> list[torch.Tensor]:
        """Gradients of what is learned now; zero where the step did not touch it, so that all processes do the same."""
        parameters = self.learned_now().values()
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    def _losses(self, step: int) -> list[torch.Tensor]:
        batches = [batch.part(self.workers.rank, self.workers.size) for batch in self._source.draw(step)]
        return compute_losses(self.model, self._captions, self.config, batches)

    def _check_finite(self, values: Mapping[str, float], when: str) -> None:
        wrong = [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            self.went_wrong = True
            self.optimizer.zero_grad(set_to_none=True)
            raise InputError(
                expected="a finite loss and gradient",
                found=f"{wrong[0]} {when}",
                remedy="Lower the learning rate. The last checkpoint, if there was one, is kept.",
            )

    def is_whole(self) -> bool:
        """Whether what is learned is worth keeping: finite, and not in the middle of an update."""
        return not self._is_moving and all(bool(torch.isfinite(p).all()) for p in self.learner.parameters().values())

    @torch.no_grad()
    def probe_loss(self, on_draw: Callable[[], None] | None = None) -> float:
        """Loss of the subject on the same few draws each time, comparable from step to step; inside `attached`.

        Raises:
            InputError: it is not finite.
        """
        values, size = [], self.workers.size
        for i in range(PROBE_DRAWS):
            if on_draw is not None:
                on_draw()
            subject = self._source.draw(PROBE + i)[0]
            # in parts as large as a step's: the draw holds the batch of all processes
            parts = [subject.part(rank, size) for rank in range(size)]
            losses = [compute_losses(self.model, self._captions, self.config, [part])[0].item() for part in parts]
            values.append(sum(losses) / size)
        named = {f"loss of probe {i + 1}": value for i, value in enumerate(values)}
        self._check_finite(named, f"after step {self.done}")
        return sum(values) / len(values)

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


def _optimizer_keys(named: Mapping[str, torch.Tensor], name: str) -> dict[str, str]:
    """What the optimiser keeps of a parameter -> the name of its tensor."""
    full = {key: f"{OPTIMIZER}.{key}.{name}" for key in ADAMW_KEYS}
    return {key: one for key, one in full.items() if one in named}


def _fits(named: Mapping[str, torch.Tensor], name: str, shape: torch.Size) -> bool:
    """Whether a parameter is there, with all that the optimiser keeps of it or nothing."""
    kept = _optimizer_keys(named, name)
    shapes = {f"{LEARNED}.{name}": shape} | {one: torch.Size() if key == "step" else shape for key, one in kept.items()}
    return len(kept) in (0, len(ADAMW_KEYS)) and all(n in named and named[n].shape == s for n, s in shapes.items())
