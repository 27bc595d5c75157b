"""Tally the answers to a preference page, with confidence intervals."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..intervals import Interval, bootstrap_mean
from .study import KEY, QUESTIONS

COLUMNS = ("study", "rater", "pair", "left", "right", "question", "choice", "seconds")
EQUAL = "equal"


@dataclass(frozen=True)
class Answer:
    """One answer: ``choice`` is the name of a video on the page, or `EQUAL`."""

    rater: str
    pair: str
    left: str
    right: str
    question: str
    choice: str


@dataclass(frozen=True)
class Preference:
    """How often a method was preferred over another; "no difference" counts as half."""

    question: str
    method: str
    other: str
    share: Interval
    """0 … 1; raters and pairs are both drawn for the interval, as far as there is more than one of them."""
    raters: int
    answers: int


@dataclass(frozen=True)
class Tally:
    """All preferences, and how often the left video was chosen: far from one half, raters were not looking."""

    preferences: list[Preference]
    left: Interval | None
    raters: int

    def markdown(self) -> str:
        """A table to read."""
        lines = ["| question | preferred | over | share | raters | answers |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {p.question.replace('_', ' ')} | {p.method} | {p.other} | {p.share} | {p.raters} | {p.answers} |"
            for p in self.preferences
        ]
        if self.left is not None:
            lines += [
                "",
                f"Among answers with a preference, the left video was chosen in {self.left} (0.5 is expected).",
            ]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """The same table as CSV."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["question", "method", "other", "share", "low", "high", "raters", "answers"])
        for p in self.preferences:
            writer.writerow(
                [p.question, p.method, p.other, p.share.mean, p.share.low, p.share.high, p.raters, p.answers]
            )
        return text.getvalue()


def read_answers(paths: Iterable[Path], study: str) -> list[Answer]:
    """Read what the page saved.

    Raises:
        InputError: a file is not such a CSV, belongs to another study, compares a video with itself, or repeats
            answers from another file.
        OSError: a file cannot be read.
    """
    answers: dict[tuple[str, str, str], Answer] = {}
    for path in paths:
        try:
            reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
            rows, columns = [(reader.line_num, row) for row in reader], tuple(reader.fieldnames or ())
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(
                expected="a CSV file", found=f"something else in {path.name}", remedy="Use the saved answers."
            ) from error
        if columns != COLUMNS:
            raise InputError(
                expected=f"the columns {', '.join(COLUMNS)}",
                found=f"others in {path.name}",
                remedy="Use the files saved by the page.",
            )
        for line, row in rows:
            if row["study"] != study:
                raise InputError(
                    expected=f"answers to this study, {study}",
                    found=f"{path.name}, answers to another",
                    remedy="Use the report they belong to, or leave the file out.",
                )
            if row["left"] == row["right"]:
                raise InputError(
                    expected="two different videos in each answer",
                    found=f"the same one left and right in line {line} of {path.name}",
                    remedy="The file was changed; leave it out.",
                )
            given = (row["rater"], row["pair"], row["question"])
            if given in answers:
                raise InputError(
                    expected="each answer once",
                    found=f"a second one by {row['rater']} in {path.name}",
                    remedy="Leave out the older file; participants need different names or codes.",
                )
            answers[given] = Answer(*(row[name] for name in COLUMNS[1:-1]))
    if not answers:
        raise InputError(expected="answers", found="none in the files", remedy="Use the files saved by the page.")
    return list(answers.values())


def tally(answers: Sequence[Answer], methods: Mapping[str, str]) -> Tally:
    """Count preferences.

    Args:
        answers: all raters' answers.
        methods: video name on the page -> method.

    Raises:
        InputError: an answer refers to a video or question that is not on the page, or to one video twice.
    """
    groups: dict[tuple[str, str, str], list[tuple[Answer, float]]] = {}
    for answer in answers:
        names = {answer.left, answer.right}
        if (
            len(names) < 2
            or not names <= set(methods)
            or answer.choice not in names | {EQUAL}
            or answer.question not in QUESTIONS
        ):
            raise InputError(
                expected="answers about this page's videos",
                found=f"{answer}",
                remedy="The file was changed; leave it out.",
            )
        first, second = sorted(names, key=methods.__getitem__)
        value = 0.5 if answer.choice == EQUAL else float(answer.choice == first)
        groups.setdefault((methods[first], methods[second], answer.question), []).append((answer, value))
    preferences = [
        _preference(question, first, second, groups[first, second, question])
        for first, second in sorted({key[:2] for key in groups})
        for question in QUESTIONS
        if (first, second, question) in groups
    ]
    chosen = [answer for answer in answers if answer.choice != EQUAL]
    left = _interval(chosen, [float(answer.choice == answer.left) for answer in chosen]) if chosen else None
    return Tally(preferences, left, len({answer.rater for answer in answers}))


def _preference(question: str, method: str, other: str, given: Sequence[tuple[Answer, float]]) -> Preference:
    answers = [answer for answer, _ in given]
    raters = len({answer.rater for answer in answers})
    return Preference(question, method, other, _interval(answers, [value for _, value in given]), raters, len(answers))


def _interval(answers: Sequence[Answer], values: Sequence[float]) -> Interval:
    raters, pairs = [answer.rater for answer in answers], [answer.pair for answer in answers]
    return bootstrap_mean(values, groups=raters, crossed=pairs)


def read_key(folder: Path) -> tuple[str, dict[str, str]]:
    """The study's name and, for each video's name on the page, its method.

    Raises:
        InputError: there is no key in the folder, or it cannot be read.
    """
    path = folder / KEY
    if not path.is_file():
        raise InputError(expected=f"a study with its {KEY}", found=f"none in {folder}", remedy="Create the page first.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return str(content["study"]), {name: str(video["method"]) for name, video in content["videos"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            expected=f"a valid key in {KEY}", found=repr(error), remedy="Create the page again."
        ) from error
