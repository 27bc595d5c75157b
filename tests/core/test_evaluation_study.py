"""The blind preference page: which pairs, what the page gives away, and the count of answers."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from customcrafter_core.cli.main import main
from customcrafter_core.errors import InputError
from customcrafter_core.experiments.report_folder import MANIFEST, ReportVideo, ReportVideos
from customcrafter_core.experiments.study import QUESTIONS, choose_pairs
from customcrafter_core.experiments.tally import COLUMNS, Answer, read_answers, tally
from tests.core import small_reports


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return small_reports.write_report(tmp_path / "report")


def many_videos() -> list[ReportVideo]:
    return [
        ReportVideo(f"{m}{s}{p}.mp4", m, s, p, 1)
        for m in ("customcrafter", "a", "b")
        for s in ("cup", "dog")
        for p in ("x", "y", "z")
    ]


def test_pairs_hold_our_method_and_are_spread_evenly() -> None:
    pairs = choose_pairs(many_videos(), most=8)
    assert len(pairs) == len(set(pairs)) == 8
    for pair in pairs:
        assert (pair.first.subject, pair.first.prompt, pair.first.seed) == (
            pair.second.subject,
            pair.second.prompt,
            pair.second.seed,
        )
        assert "customcrafter" in (pair.first.method, pair.second.method)
    others = Counter(({p.first.method, p.second.method} - {"customcrafter"}).pop() for p in pairs)
    assert others == {"a": 4, "b": 4}
    assert choose_pairs(many_videos(), most=8) == pairs != choose_pairs(many_videos(), most=8, seed=1)
    assert len(choose_pairs(many_videos(), most=100)) == 12
    assert len(choose_pairs([v for v in many_videos() if v.method != "customcrafter"])) == 6
    assert all("a" in (p.first.method, p.second.method) for p in choose_pairs(many_videos(), against="a"))


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(InputError, match="one of a, b, customcrafter"):
        choose_pairs(many_videos(), against="c")
    with pytest.raises(InputError, match="two methods"):
        choose_pairs([v for v in many_videos() if v.method == "a"])


def test_the_page_holds_everything_and_names_no_method(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", str(report)]) == 0
    page, key = (report / "study.html").read_text(), json.loads((report / "study-key.json").read_text())
    assert "6 pairs" in capsys.readouterr().out
    for word in (*small_reports.METHODS, "http://", "https://", ".mp4"):
        assert word not in page, word
    assert page.count("data:video/mp4;base64,") == 9 and page.count("data:image/png;base64,") == 1
    assert {video["method"] for video in key["videos"].values()} == set(small_reports.METHODS)
    assert all(name in page for name in key["videos"])
    before = page
    assert main(["study", str(report)]) == 0
    assert (report / "study.html").read_text() == before  # the same study: saved answers go on fitting


def test_a_report_that_points_elsewhere_is_refused(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    listed = json.loads((report / MANIFEST).read_text())
    for changed in ({**listed, "videos": [{**listed["videos"][0], "file": "../secret.mp4"}]}, {"videos": [{}]}, []):
        (report / MANIFEST).write_text(json.dumps(changed))
        with pytest.raises(InputError):
            ReportVideos.read(report)
    capsys.readouterr()
    assert main(["study", str(tmp_path)]) == 2
    assert MANIFEST in capsys.readouterr().err


# --- counting ---------------------------------------------------------------------------------------------------------

METHODS = {"v1": "ours", "v2": "theirs", "v3": "ours", "v4": "theirs"}


def answer(
    rater: str, choice: str, *, left: str = "v1", right: str = "v2", question: str = "overall_quality"
) -> Answer:
    return Answer(rater, f"{left}{right}", left, right, question, choice)


def test_shares_are_counted_by_method_whatever_the_side() -> None:
    answers = [answer("a", "v1"), answer("b", "v1", left="v2", right="v1"), answer("c", "equal"), answer("d", "v2")]
    (preference,) = tally(answers, METHODS).preferences
    assert (preference.method, preference.other, preference.share.mean) == ("ours", "theirs", 2.5 / 4)
    assert (preference.raters, preference.answers) == (4, 4)
    result = tally(answers, METHODS)
    assert result.left is not None and result.left.mean == 1 / 3  # v1 left, v1 right, v2 right


def test_answers_of_one_person_count_together_in_the_interval() -> None:
    """Ten answers of each of two people who disagree say as little as two answers."""
    methods = {f"o{i}": "ours" for i in range(10)} | {f"t{i}": "theirs" for i in range(10)}
    answers = [
        answer(rater, f"{choice}{i}", left=f"o{i}", right=f"t{i}")
        for rater, choice in (("a", "o"), ("b", "t"))
        for i in range(10)
    ]
    (preference,) = tally(answers, methods).preferences
    assert (preference.share.mean, preference.share.low, preference.share.high) == (0.5, 0, 1)
    (alone,) = tally([one for one in answers if one.rater == "a"], methods).preferences
    assert (alone.share.mean, alone.share.low) == (1, 1)


def save(path: Path, rows: list[list[str]], columns: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([list(columns), *rows])
    return path


def test_answers_are_read_and_counted_by_the_command(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", str(report)]) == 0
    key = json.loads((report / "study-key.json").read_text())
    names = {(v["method"], v["prompt"]): name for name, v in key["videos"].items()}
    first, second = names["customcrafter", small_reports.PROMPTS[0]], names["dreamvideo", small_reports.PROMPTS[0]]
    rows = [[key["study"], "Åsa", "p1", second, first, question, first, "3.5"] for question in QUESTIONS]
    capsys.readouterr()
    assert main(["study", str(report), "--tally", str(save(tmp_path / "a.csv", rows))]) == 0
    shown = capsys.readouterr().out
    assert "| motion fluency | customcrafter | dreamvideo | 1.000 | 1 | 1 |" in shown
    with (report / "study-tally.csv").open() as file:
        assert [row["share"] for row in csv.DictReader(file)] == ["1.0"] * 4


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([["other", "a", "p", "v1", "v2", "overall_quality", "v1", "1"]], COLUMNS, "answers to another"),
        ([["s", "a", "p", "v1", "v2", "overall_quality", "v1", "1"]] * 2, COLUMNS, "a second one by a"),
        (
            [["s", "a", "p", *sides, "overall_quality", "equal", "1"] for sides in (("v1", "v2"), ("v1", "v1"))],
            COLUMNS,
            "left and right in line 3 of x.csv",
        ),
        ([], COLUMNS, "none in the files"),
        ([], ("a", "b"), "others in x.csv"),
    ],
)
def test_files_that_do_not_belong_are_refused(
    rows: list[list[str]], columns: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        read_answers([save(tmp_path / "x.csv", rows, columns)], "s")


@pytest.mark.parametrize("changed", [{"choice": "v9"}, {"left": "v9"}, {"left": "v2"}, {"question": "beauty"}])
def test_answers_about_other_videos_are_refused(changed: dict[str, str]) -> None:
    with pytest.raises(InputError, match="was changed"):
        tally([answer("a", **{"choice": "equal", **changed})], METHODS)
