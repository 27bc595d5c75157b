"""The subject's strength at each step: Algorithm 1, curves, what strength 0 and an exception leave behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.networks import build_unet
from customcrafter_core.diffusion.ddim import ddim_levels
from customcrafter_core.diffusion.guidance import GuidanceBatch
from customcrafter_core.diffusion.schedule import NoiseSchedule
from customcrafter_core.diffusion.strength import Constant, Curve, TwoPhase, strengths_of
from customcrafter_core.errors import InputError
from customcrafter_core.sampling.generation import Generation, SampledStep, generate
from customcrafter_core.sampling.preparation import AppliedSubject
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.adapter import attached
from customcrafter_core.subject.subject import Subject
from tests.core.small_subjects import random_subject
from tests.core.vectors import relative_l2

SETTINGS = VideoSettings("a <new1> teddy bear runs", width=32, height=16, frames=2, steps=3, seed=3)
STEPS = SETTINGS.steps


@pytest.fixture(scope="module")
def subject(model: VideoCrafter2) -> Subject:
    return random_subject(model, every=4)


@pytest.fixture(scope="module")
def other(model: VideoCrafter2) -> Subject:
    return random_subject(model, seed=10, rank=3, every=6, placeholder="<new2>")


@pytest.fixture(scope="module")
def run(model: VideoCrafter2) -> Callable[..., Generation]:
    def run(*subjects: AppliedSubject, on_step: Any = None, **changes: Any) -> Generation:
        return generate(model, replace(SETTINGS, **changes), subjects, on_step=on_step)

    return run


def state_of(model: VideoCrafter2) -> tuple[dict[str, int], dict[str, torch.Tensor], dict[str, bool], set[str]]:
    """Everything about the UNet that must outlive a run: modules, values, gradient flags, attributes."""
    return (
        {name: id(module) for name, module in model.unet.named_modules()},
        {name: value.clone() for name, value in model.unet.state_dict().items()},
        {name: parameter.requires_grad for name, parameter in model.unet.named_parameters()},
        set(vars(model.unet)),
    )


@pytest.fixture
def unchanged(model: VideoCrafter2) -> Iterator[None]:
    modules, values, gradients, attributes = state_of(model)
    yield
    now = state_of(model)
    assert now[0] == modules
    assert now[1].keys() == values.keys() and all(torch.equal(now[1][name], value) for name, value in values.items())
    assert now[2:] == (gradients, attributes)


# strength 0


def test_strength_zero_is_no_subject_bit_for_bit(
    run: Callable[..., Generation], model: VideoCrafter2, unchanged: None
) -> None:
    """The token stays in the prompt; of the factors, in all targets, nothing is left."""
    subject = random_subject(model)
    bare = run(AppliedSubject(replace(subject, factors={}), Constant(1.0)))
    assert torch.equal(run(AppliedSubject(subject, Constant(0.0))).latent, bare.latent)
    assert not torch.equal(run(AppliedSubject(subject, Constant(0.5))).latent, bare.latent)


def test_strength_zero_is_the_base_model_when_the_prompt_holds_no_token(
    run: Callable[..., Generation], subject: Subject
) -> None:
    base = run(prompt="a dog runs")
    assert torch.equal(run(AppliedSubject(subject, Constant(0.0)), prompt="a dog runs").latent, base.latent)
    assert not torch.equal(run(AppliedSubject(subject, Constant(0.1)), prompt="a dog runs").latent, base.latent)


def test_one_of_two_subjects_at_zero_is_absent(
    run: Callable[..., Generation], subject: Subject, other: Subject
) -> None:
    prompt = "a dog runs"
    alone = run(AppliedSubject(subject, Constant(0.7)), prompt=prompt).latent
    for pair in (
        (AppliedSubject(subject, Constant(0.7)), AppliedSubject(other, Constant(0.0))),
        (AppliedSubject(other, Constant(0.0)), AppliedSubject(subject, Constant(0.7))),
    ):
        both = run(*pair, prompt=prompt)
        assert torch.equal(both.latent, alone)
        assert both.strengths == [tuple(applied.strength(0, STEPS) for applied in pair)] * STEPS
    together = run(AppliedSubject(subject, Constant(0.7)), AppliedSubject(other, Constant(0.2)), prompt=prompt)
    assert relative_l2(together.latent, alone) > 1e-3


def test_a_step_at_zero_between_others_is_the_base_models(model: VideoCrafter2, subject: Subject) -> None:
    latent, text = torch.randn(1, 4, 2, 4, 4), torch.randn(1, 77, model.config.text.hidden_size)
    fps = torch.tensor([8])

    def predict() -> torch.Tensor:
        return model.unet(latent, 500, text, timestep_cond=fps).sample

    with torch.inference_mode():
        base = predict()
        with attached(model.unet, [subject]) as attachment:
            assert torch.equal(predict(), base)  # attached, not yet set
            attachment.set_strengths([0.8])
            strong = predict()
            attachment.set_strengths([0.0])
            assert torch.equal(predict(), base)
            attachment.set_strengths([0.8])
            assert torch.equal(predict(), strong)
        assert torch.equal(predict(), base)
    assert relative_l2(strong, base) > 1e-2


def test_strength_scales_the_low_rank_change(model: VideoCrafter2, subject: Subject) -> None:
    name = next(iter(subject.factors))
    layer, pair = model.unet.get_submodule(name), subject.factors[name]
    weight, x = layer.weight, torch.randn(3, layer.in_features)
    with torch.inference_mode(), attached(model.unet, [subject]) as attachment:
        for strength in (0.4, -1.5, 2.0):
            attachment.set_strengths([strength])
            expected = x @ (weight + strength * pair.up @ pair.down).T
            assert relative_l2(layer(x), expected) < 1e-5


# Algorithm 1


def test_k_zero_is_lambda_l_throughout(run: Callable[..., Generation], subject: Subject) -> None:
    result = run(AppliedSubject(subject, TwoPhase(0.3, 0.9, 0)))
    assert result.strengths == [(0.9,)] * STEPS
    assert torch.equal(result.latent, run(AppliedSubject(subject, Constant(0.9))).latent)


@pytest.mark.parametrize("k", [STEPS, STEPS + 1, 1000])
def test_k_of_all_steps_or_more_is_lambda_s_throughout(
    run: Callable[..., Generation], subject: Subject, k: int
) -> None:
    result = run(AppliedSubject(subject, TwoPhase(0.3, 0.9, k)))
    assert result.strengths == [(0.3,)] * STEPS
    assert torch.equal(result.latent, run(AppliedSubject(subject, Constant(0.3))).latent)


def test_equal_lambdas_do_not_depend_on_k(run: Callable[..., Generation], subject: Subject) -> None:
    results = [run(AppliedSubject(subject, TwoPhase(0.6, 0.6, k))).latent for k in (0, 2, 9)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_k_steps_at_lambda_s_then_lambda_l(run: Callable[..., Generation], subject: Subject) -> None:
    seen: list[SampledStep] = []
    result = run(AppliedSubject(subject, TwoPhase(0.4, 0.8, 1)), on_step=seen.append)
    assert result.strengths == [(0.4,), (0.8,), (0.8,)]
    assert [step.strengths for step in seen] == result.strengths
    assert [step.timestep for step in seen] == result.timesteps
    assert [(step.step, step.steps) for step in seen] == [(i, STEPS) for i in range(STEPS)]
    # the phase is applied, not only recorded
    assert relative_l2(result.latent, run(AppliedSubject(subject, Constant(0.8))).latent) > 1e-4
    assert relative_l2(result.latent, run(AppliedSubject(subject, Constant(0.4))).latent) > 1e-4


def test_each_step_has_the_strength_of_its_own_phase(run: Callable[..., Generation], subject: Subject) -> None:
    """The first prediction of a two-phase run is that of a run at lambda_s, bit for bit; the second is not."""

    def predictions(strength: Any) -> list[torch.Tensor]:
        seen: list[SampledStep] = []
        run(AppliedSubject(subject, strength), on_step=seen.append)
        return [step.x0 for step in seen]

    mixed, low = predictions(TwoPhase(0.3, 0.9, 2)), predictions(Constant(0.3))
    assert [torch.equal(a, b) for a, b in zip(mixed, low, strict=True)] == [True, True, False]


def test_thirty_steps_are_thirty_one_and_k_counts_on_them(run: Callable[..., Generation], subject: Subject) -> None:
    result = run(AppliedSubject(subject, TwoPhase(0.1, 0.7, 30)), steps=30, cfg=1.0, frames=1)
    assert len(result.timesteps) == 31 and result.timesteps[0] == 991 and result.timesteps[-1] == 1
    assert result.strengths == [(0.1,)] * 30 + [(0.7,)]


def test_the_papers_values_are_the_default(subject: Subject) -> None:
    assert strengths_of(AppliedSubject(subject).schedule, 50) == [0.4] * 5 + [0.8] * 45


@pytest.mark.parametrize(("steps", "first", "count"), [(1, 1, 1), (2, 501, 2), (50, 981, 50), (1000, 999, 999)])
def test_timesteps(steps: int, first: int, count: int) -> None:
    timesteps = NoiseSchedule.videocrafter2().ddim_timesteps(steps)
    assert (timesteps[0], timesteps[-1], len(timesteps)) == (first, 1, count)
    assert timesteps == sorted(set(timesteps), reverse=True)


# curves


def test_curve_is_linear_between_points_and_flat_outside() -> None:
    curve = Curve.parse("0.75:0.8, 0.25:0.4")
    assert strengths_of(curve, 5) == pytest.approx([0.4, 0.4, 0.6, 0.8, 0.8])
    assert strengths_of(Curve(((0.5, 0.3),)), 3) == [0.3, 0.3, 0.3]
    assert strengths_of(curve, 1) == [0.4]


def test_curve_can_jump() -> None:
    assert strengths_of(Curve.parse("0:0.4; 0.5:0.4; 0.5:0.8; 1:0.8"), 5) == [0.4, 0.4, 0.8, 0.8, 0.8]


def test_curve_from_samples_meets_them_on_as_many_steps() -> None:
    samples = [0.1, 0.9, 0.2, 0.7]
    assert strengths_of(Curve.sampled(samples), 4) == pytest.approx(samples)
    assert strengths_of(Curve.sampled([0.6]), 3) == [0.6] * 3


def test_any_function_of_the_step_is_a_schedule(run: Callable[..., Generation], subject: Subject) -> None:
    result = run(AppliedSubject(subject, lambda step, steps: step / steps))
    assert result.strengths == [(0.0,), (1 / 3,), (2 / 3,)]


@pytest.mark.parametrize(
    "text", ["", " , ", "0.4", "0:0.4:1", "a:b", "0:0.4, 2:0.8", "-0.1:1", "0:nan", "0:inf", "nan:1"]
)
def test_text_that_is_no_curve_is_refused(text: str) -> None:
    with pytest.raises(InputError) as error:
        Curve.parse(text)
    assert "0:0.4" in error.value.remedy or "finite" in error.value.expected


def test_curve_without_samples_is_refused() -> None:
    with pytest.raises(InputError, match="at least one point"):
        Curve.sampled([])


# wrong values


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_strengths_that_are_not_finite_are_refused(value: float) -> None:
    for make in (lambda: TwoPhase(lambda_s=value), lambda: TwoPhase(lambda_l=value), lambda: Constant(value)):
        with pytest.raises(InputError) as error:
            make()
        assert "finite" in error.value.expected and str(value) in error.value.found and error.value.remedy


@pytest.mark.parametrize("k", [-1, 2.5, math.nan, math.inf, "x", "5", None])
def test_k_that_is_no_count_is_refused(k: Any) -> None:
    with pytest.raises(InputError) as error:
        TwoPhase(k=k)
    assert "K" in error.value.expected and str(k) in error.value.found and "5" in error.value.remedy


@pytest.mark.parametrize("k", [10**400, 1 << 99999], ids=["beyond float", "beyond str"])
def test_k_beyond_all_numbers_is_refused(k: int) -> None:
    with pytest.raises(InputError) as error:
        TwoPhase(k=k)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "strong"])
def test_schedule_that_gives_no_number_is_refused_before_anything_is_sampled(
    run: Callable[..., Generation], subject: Subject, unchanged: None, value: Any
) -> None:
    seen: list[SampledStep] = []
    with pytest.raises(InputError, match="finite"):
        run(AppliedSubject(subject, lambda step, steps: value if step == 2 else 0.5), on_step=seen.append)
    assert not seen


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_step_counts_out_of_range_are_refused(run: Callable[..., Generation], steps: int) -> None:
    with pytest.raises(InputError) as error:
        run(steps=steps)
    assert "1 to 1000" in error.value.expected and error.value.found == str(steps) and "50" in error.value.remedy


@pytest.mark.parametrize(
    ("changes", "expected", "found"),
    [
        ({"width": 36}, "divisible by 8", "36x16"),
        ({"height": 15}, "divisible by 8", "32x15"),
        ({"width": -8}, "divisible by 8", "-8x16"),
        ({"frames": -1}, "at least one frame", "-1 frames"),
        ({"batch": 0}, "one video", "0 videos"),
        ({"fps": 61}, "1 to 60", "61"),
        ({"fps": -1}, "1 to 60", "-1"),
        ({"cfg": 0.5}, "guidance", "0.5"),
        ({"cfg": math.nan}, "guidance", "nan"),
        ({"cfg": math.inf}, "guidance", "inf"),
        ({"eta": -0.1}, "eta", "-0.1"),
        ({"eta": math.nan}, "eta", "nan"),
        ({"eta": 1.5}, "eta", "1.5"),
    ],
)
def test_settings_out_of_range_are_refused(
    run: Callable[..., Generation], changes: dict[str, Any], expected: str, found: str
) -> None:
    seen: list[SampledStep] = []
    with pytest.raises(InputError) as error:
        run(on_step=seen.append, **changes)
    assert expected in error.value.expected and found in error.value.found and error.value.remedy
    assert not seen


# sampling


def test_exact_tail_ends_at_the_predicted_clean_latent(run: Callable[..., Generation], subject: Subject) -> None:
    seen: list[SampledStep] = []
    exact = run(AppliedSubject(subject), exact_tail=True, eta=0.0, on_step=seen.append)
    assert torch.equal(exact.latent, seen[-1].x0)
    usual = run(AppliedSubject(subject), eta=0.0, on_step=seen.append)
    assert not torch.equal(usual.latent, seen[-1].x0)
    tail = ddim_levels(NoiseSchedule.videocrafter2(), [1], exact_tail=False)[-1]
    assert tail.noise == pytest.approx(0.029, abs=5e-4)  # what VideoCrafter2 leaves in the latent


def test_same_seed_gives_the_same_latent_bit_for_bit(run: Callable[..., Generation], subject: Subject) -> None:
    first, second = (run(AppliedSubject(subject)) for _ in range(2))
    assert torch.equal(first.latent, second.latent)
    assert relative_l2(run(AppliedSubject(subject), seed=4).latent, first.latent) > 0.1


def test_each_video_of_a_batch_is_the_one_of_its_own_seed(run: Callable[..., Generation], subject: Subject) -> None:
    batch = run(AppliedSubject(subject), batch=2)
    for i in range(2):
        single = run(AppliedSubject(subject), seed=SETTINGS.seed + i)
        assert relative_l2(batch.latent[i : i + 1], single.latent) < 1e-5


def test_the_largest_seed_can_start_a_batch(run: Callable[..., Generation]) -> None:
    """ComfyUI's seed widget goes up to 2**64 - 1."""
    batch = run(seed=2**64 - 1, batch=2, steps=1)
    assert torch.isfinite(batch.latent).all()
    assert relative_l2(batch.latent[1:], run(seed=0, steps=1).latent) < 1e-5


def test_guidance_one_by_one_equals_together(run: Callable[..., Generation], subject: Subject) -> None:
    together = run(AppliedSubject(subject), guidance=GuidanceBatch.TOGETHER)
    one_by_one = run(AppliedSubject(subject), guidance=GuidanceBatch.ONE_BY_ONE)
    assert relative_l2(one_by_one.latent, together.latent) < 1e-4


OUT_OF_MEMORY = {
    "gpu": torch.OutOfMemoryError("tried to allocate 20 GiB"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
}


@pytest.fixture(params=OUT_OF_MEMORY)
def out_of_memory_when_batched(model: VideoCrafter2, request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """A device that holds one prediction at a time; gives the batch sizes it was asked for."""
    sizes: list[int] = []

    def refuse(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(args[0]))
        if len(args[0]) > 1:
            raise OUT_OF_MEMORY[request.param]

    hook = model.unet.register_forward_pre_hook(refuse)
    yield sizes
    hook.remove()


def test_guidance_goes_on_one_by_one_when_memory_runs_out(
    run: Callable[..., Generation],
    subject: Subject,
    out_of_memory_when_batched: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    result = run(AppliedSubject(subject))
    assert out_of_memory_when_batched == [2] + [1] * 2 * STEPS  # tried once, then two predictions a step
    assert "one by one" in caplog.text
    expected = run(AppliedSubject(subject), guidance=GuidanceBatch.ONE_BY_ONE)
    assert torch.equal(result.latent, expected.latent)


@pytest.mark.usefixtures("out_of_memory_when_batched")
def test_guidance_together_reports_that_memory_ran_out(run: Callable[..., Generation], subject: Subject) -> None:
    with pytest.raises(RuntimeError, match="allocate"):
        run(AppliedSubject(subject), guidance=GuidanceBatch.TOGETHER)


# exceptions


class InterruptedByUser(BaseException):
    """As a host's Cancel button raises."""


@pytest.mark.parametrize(("at", "kind"), [(0, RuntimeError), (1, InterruptedByUser), (2, RuntimeError)])
def test_base_model_is_unchanged_after_an_exception_at_any_step(
    run: Callable[..., Generation],
    subject: Subject,
    other: Subject,
    unchanged: None,
    at: int,
    kind: type[BaseException],
) -> None:
    before = run(prompt="a dog", steps=1).latent

    def interrupt(step: SampledStep) -> None:
        if step.step == at:
            raise kind("stop")

    with pytest.raises(kind, match="stop"):
        run(
            AppliedSubject(subject),
            AppliedSubject(other),
            prompt="<new1> teddy bear and <new2> teddy bear",
            on_step=interrupt,
        )
    assert torch.equal(run(prompt="a dog", steps=1).latent, before)


def test_base_model_is_unchanged_after_factors_that_do_not_fit(
    model: VideoCrafter2, subject: Subject, unchanged: None
) -> None:
    """Even when the check of widths is left out, as a caller of `attached` can."""
    name = next(iter(subject.factors))
    broken = replace(subject, factors={**subject.factors, name: replace(subject.factors[name], up=torch.zeros(3, 2))})
    with pytest.raises(RuntimeError), attached(model.unet, [subject, broken]) as attachment:
        attachment.set_strengths([1.0, 1.0])
        model.unet(
            torch.zeros(1, 4, 2, 4, 4),
            1,
            torch.zeros(1, 77, model.config.text.hidden_size),
            timestep_cond=torch.tensor([8]),
        )


def test_gradient_flags_of_a_trainable_network_are_given_back(model: VideoCrafter2, subject: Subject) -> None:
    unet = build_unet(model.config.unet)
    assert all(parameter.requires_grad for parameter in unet.parameters())
    with attached(unet, [subject]):
        pass
    assert all(parameter.requires_grad for parameter in unet.parameters())


def test_without_a_strength_the_subjects_own_recommendation_holds(
    run: Callable[..., Generation], subject: Subject
) -> None:
    own = replace(subject, recommended=TwoPhase(0.1, 0.3, 1))
    assert run(AppliedSubject(own)).strengths == [(0.1,), (0.3,), (0.3,)]
    assert run(AppliedSubject(own, Constant(0.5))).strengths == [(0.5,)] * 3
