"""Prompts: where V* goes, what is warned of, and that the text encoder is afterwards what it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from customcrafter_core.base_model.model import VideoCrafter2
from customcrafter_core.base_model.text import PromptTokenizer, clip_tokenizer, encode_ids, learned_tokens
from customcrafter_core.diffusion.strength import Constant, TwoPhase
from customcrafter_core.errors import InputError
from customcrafter_core.sampling.generation import generate
from customcrafter_core.sampling.preparation import AppliedSubject, remarks
from customcrafter_core.sampling.settings import VideoSettings
from customcrafter_core.subject.formats import class_embedding
from customcrafter_core.subject.prompts import encode_prompts, missing_tokens
from customcrafter_core.subject.subject import Subject
from tests.core.small_subjects import random_subject
from tests.core.vectors import relative_l2

START, END = 49406, 49407
SETTINGS = VideoSettings("", width=32, height=16, frames=1, steps=1, cfg=1.0)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def text_encoder_unchanged(model: VideoCrafter2) -> Iterator[None]:
    """After every test in this file."""
    modules = {name: id(module) for name, module in model.text_encoder.named_modules()}
    values = {name: value.clone() for name, value in model.text_encoder.state_dict().items()}
    yield
    assert {name: id(module) for name, module in model.text_encoder.named_modules()} == modules
    now = model.text_encoder.state_dict()
    assert now.keys() == values.keys() and all(torch.equal(now[name], value) for name, value in values.items())


def ids_of(text: str) -> list[int]:
    return clip_tokenizer()(text, add_special_tokens=False).input_ids


def rows_of(model: VideoCrafter2, text: str) -> torch.Tensor:
    """The text encoder's own rows ``(n, d)`` for words."""
    return model.text_encoder.get_input_embeddings().weight[ids_of(text)]


def subject_of(model: VideoCrafter2, text: str, placeholder: str) -> Subject:
    """A subject whose V* is that of ordinary words."""
    return replace(random_subject(model, every=48, placeholder=placeholder), embedding=rows_of(model, text))


def refusal(action: Callable[[], Any]) -> InputError:
    with pytest.raises(InputError) as error:
        action()
    assert error.value.expected and error.value.found and error.value.remedy
    return error.value


# token ids


def padded(*ids: int) -> list[int]:
    return [START, *ids, END] + [0] * (75 - len(ids))


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("a <new1> dog", [320, 49408, 1929]),
        ("a<new1>dog", [320, 49408, 1929]),
        ("<new1>", [49408]),
        ("<new1><new1>", [49408, 49408]),
        ("<new2> and <new1>", [49409, 49410, 537, 49408]),
        ("(<new1>)", [263, 49408, 264]),
        ("<NEW1>", ids_of("<NEW1>")),
        ("<new12>", ids_of("<new12>")),
        ("", []),
        ("  ", []),
    ],
)
def test_ids_of_learned_tokens_follow_the_vocabulary(prompt: str, ids: list[int]) -> None:
    tokenizer = PromptTokenizer({"<new1>": 1, "<new2>": 2})
    assert tokenizer([prompt]).tolist() == [padded(*ids)]


def test_the_longer_of_two_tokens_that_begin_alike_is_meant() -> None:
    tokenizer = PromptTokenizer({"sks1x": 1, "sks1xy": 1})
    assert tokenizer(["sks1xy sks1x"]).tolist() == [padded(49409, 49408)]


def test_an_exclamation_mark_is_a_word_while_padding_is_0() -> None:
    (ids,) = PromptTokenizer()(["wow!"]).tolist()
    assert ids == padded(2781, 256)
    assert clip_tokenizer().convert_ids_to_tokens([256, 0]) == ["!</w>", "!"]


def test_a_row_for_each_prompt() -> None:
    ids = PromptTokenizer({"<new1>": 1})(["a dog", "", "<new1>"])
    assert ids.shape == (3, 77) and ids.dtype == torch.long
    assert ids.tolist() == [padded(320, 1929), padded(), padded(49408)]


def test_the_shared_tokenizer_never_learns_a_token() -> None:
    before = len(clip_tokenizer())
    PromptTokenizer({"<new1>": 4})(["a <new1>"])
    assert len(clip_tokenizer()) == before == 49408


@pytest.mark.parametrize("placeholder", ["", " ", "two words", "tab\t", "dog", "Dog", "*", "<|endoftext|>", "<"])
def test_placeholders_that_prompts_cannot_hold_or_that_are_words(placeholder: str, model: VideoCrafter2) -> None:
    for action in (
        lambda: PromptTokenizer({placeholder: 1}),
        lambda: random_subject(model, every=48).called(placeholder),
    ):
        error = refusal(action)
        assert "new token" in error.expected and repr(placeholder) in error.found and "<new1>" in error.remedy


@pytest.mark.parametrize("placeholder", ["<new1>", "S*", "<ü>", "new1", "<sks>"])
def test_placeholders_that_are_new(placeholder: str) -> None:
    assert PromptTokenizer({placeholder: 1})([f"a {placeholder}."])[0, 2] == 49408


# what the text encoder makes of them


def test_the_vector_stands_where_the_token_is(model: VideoCrafter2) -> None:
    """A V* that equals a word's own row gives that word's embedding, bit for bit."""
    dog = subject_of(model, "dog", "<new1>")
    expected = encode_prompts(model, ["a dog runs", "dog", "cat"])
    assert torch.equal(encode_prompts(model, ["a <new1> runs", "<new1>", "cat"], [dog]), expected)


def test_a_token_of_several_vectors(model: VideoCrafter2) -> None:
    bear = subject_of(model, "big teddy bear", "<new1>")
    assert bear.embedding.shape[0] == 3
    assert torch.equal(
        encode_prompts(model, ["the <new1> runs"], [bear]), encode_prompts(model, ["the big teddy bear runs"])
    )


def test_two_subjects_in_any_order(model: VideoCrafter2) -> None:
    bear, dog = subject_of(model, "teddy bear", "<new1>"), subject_of(model, "dog", "<new2>")
    expected = encode_prompts(model, ["a dog and a teddy bear"])
    for subjects in ([bear, dog], [dog, bear]):
        assert torch.equal(encode_prompts(model, ["a <new2> and a <new1>"], subjects), expected)


def test_prompts_without_the_token_are_as_without_the_subject(model: VideoCrafter2) -> None:
    subject = random_subject(model, every=48)
    plain, with_subject = encode_prompts(model, ["a dog"]), encode_prompts(model, ["a dog", "a <new1>"], [subject])
    assert relative_l2(with_subject[:1], plain) < 1e-6
    assert relative_l2(with_subject[1:], plain) > 1e-2


def test_the_text_encoder_is_given_back_after_an_exception(model: VideoCrafter2) -> None:
    before = encode_prompts(model, ["a dog"])
    with pytest.raises(KeyboardInterrupt), learned_tokens(model.text_encoder, [torch.zeros(1, 48)]):
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError), learned_tokens(model.text_encoder, [torch.zeros(1, 1024)]):
        encode_ids(model.text_encoder, torch.tensor([[49408]]))
    assert torch.equal(encode_prompts(model, ["a dog"]), before)


def test_the_same_token_twice_is_refused(model: VideoCrafter2) -> None:
    first, second = random_subject(model, every=48), random_subject(model, every=48, seed=5)
    settings = replace(SETTINGS, prompt="<new1>")
    for action in (
        lambda: encode_prompts(model, ["<new1>"], [first, second]),
        lambda: generate(model, settings, [AppliedSubject(first), AppliedSubject(second)]),
    ):
        error = refusal(action)
        assert "different token" in error.expected and "<new1>, <new1>" in error.found and "<new2>" in error.remedy
    encode_prompts(model, ["<new1> <new2>"], [first, second.called("<new2>")])


# warnings


def applied(*subjects: Subject) -> list[AppliedSubject]:
    return [AppliedSubject(subject, Constant(0.8)) for subject in subjects]


def test_a_prompt_without_the_token_of_a_subject_warns_and_names_it(
    model: VideoCrafter2, caplog: pytest.LogCaptureFixture
) -> None:
    bear, other = random_subject(model, every=48), random_subject(model, every=48, placeholder="<new2>")
    with caplog.at_level(logging.WARNING):
        result = generate(model, replace(SETTINGS, prompt="a <new2>"), applied(bear, other))
    (warning,) = result.warnings
    assert "<new1>" in warning and "'<new1> teddy bear'" in warning and "<new2>" not in warning
    assert warning in caplog.text


def test_a_prompt_with_the_token_does_not_warn(model: VideoCrafter2, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = generate(model, replace(SETTINGS, prompt="a <new1>"), applied(random_subject(model, every=48)))
    assert not result.warnings and not caplog.text


def test_the_negative_prompt_does_not_count(model: VideoCrafter2) -> None:
    settings = replace(SETTINGS, prompt="a bear", negative="<new1>")
    assert generate(model, settings, applied(random_subject(model, every=48))).warnings


def test_a_k_that_covers_all_steps_is_told(model: VideoCrafter2) -> None:
    settings, subject = replace(SETTINGS, prompt="a <new1>", steps=2), random_subject(model, every=48)

    def told(schedule: TwoPhase) -> list[str]:
        return generate(model, settings, [AppliedSubject(subject, schedule)]).warnings

    assert told(TwoPhase(k=1)) == told(TwoPhase(0.4, 0.4, 9)) == []
    assert told(TwoPhase(k=2)) == ["K 2 covers all 2 steps: λs 0.4 throughout, λl is never used."]
    two = [AppliedSubject(subject, TwoPhase()), AppliedSubject(subject.called("<new2>"), TwoPhase(k=1))]
    assert remarks(settings, two) == ["<new1>: K 5 covers all 2 steps: λs 0.4 throughout, λl is never used."]


def test_a_token_that_is_cut_off_with_the_end_of_the_prompt_is_missing(model: VideoCrafter2) -> None:
    subject = random_subject(model, every=48, vectors=2)
    assert not missing_tokens("word " * 73 + "<new1>", [subject])
    assert missing_tokens("word " * 74 + "<new1>", [subject])  # the second vector does not fit


def test_a_token_inside_another_is_missing(model: VideoCrafter2) -> None:
    short, long = (random_subject(model, every=48, placeholder=name) for name in ("bear7x", "bear7xy"))
    (warning,) = missing_tokens("a bear7xy", [short, long])
    assert "bear7x," in warning


def test_a_prompt_that_is_too_long_warns_and_keeps_its_beginning(
    model: VideoCrafter2, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        (ids,) = PromptTokenizer()(["dog " * 75]).tolist()
        assert ids == padded(*[1929] * 75) and not caplog.text
        (ids,) = PromptTokenizer()(["dog " * 76 + "cat"]).tolist()
    assert ids == padded(*[1929] * 75)
    assert "77 tokens" in caplog.text and "75 fit" in caplog.text and "cat" in caplog.text


# the empty prompt


def test_the_empty_prompt_makes_a_video(model: VideoCrafter2) -> None:
    """Prompt and negative prompt are then the same text, so the guidance scale has nothing to scale."""
    plain, guided = (generate(model, replace(SETTINGS, cfg=cfg, frames=2)) for cfg in (1.0, 12.0))
    assert torch.isfinite(plain.latent).all() and not plain.warnings
    assert relative_l2(guided.latent, plain.latent) < 1e-4
    video = model.decode(plain.latent)
    assert video.shape == (1, 2, 16, 32, 3) and 0 <= float(video.min()) <= float(video.max()) <= 1


def test_text_that_is_no_utf8_is_refused(model: VideoCrafter2) -> None:
    """As Python reads an argument that was typed in Latin-1."""
    word = b"h\xfcndchen".decode("utf-8", "surrogateescape")
    for action in (
        lambda: generate(model, replace(SETTINGS, prompt=f"a {word}")),
        lambda: generate(model, replace(SETTINGS, negative=word)),
        lambda: class_embedding(model, word),
        lambda: PromptTokenizer({f"<{word}>": 1}),
    ):
        error = refusal(action)
        assert "UTF-8" in error.expected and "\\udcfc" in error.found
        str(error).encode()
