"""The preference page as a person uses it: opened as a file in Chromium, answered, saved, counted."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from customcrafter_core.cli.main import main
from customcrafter_core.experiments.study import QUESTIONS
from tests.browser.host_page import PATIENCE, SHOTS
from tests.core import small_reports


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose page was made by the command."""
    folder = small_reports.write_report(tmp_path_factory.mktemp("study") / "a report")
    assert main(["study", str(folder)]) == 0
    return folder


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The page from file://, in a fresh profile without network."""
    context = browser.new_context(viewport={"width": 1100, "height": 950}, offline=True, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    page.goto((report / "study.html").as_uri())
    yield page
    context.close()
    assert problems == []


def videos_on(page: Any) -> tuple[str, str]:
    """Sources of the left and the right video."""
    return page.get_attribute("#left", "src"), page.get_attribute("#right", "src")


def answer(page: Any, side: str) -> None:
    """Give the same answer to all questions."""
    for question in QUESTIONS:
        page.check(f"input[name={question}][value='{side}']")


def state(page: Any) -> Any:
    """What the page has kept in the browser."""
    return page.evaluate("() => state")


def test_a_person_answers_goes_back_is_interrupted_and_saves(page: Any, report: Path, tmp_path: Path) -> None:
    page.fill("#rater", "Zoë, =1+1")
    page.click("#begin")
    page.wait_for_function("() => ['left', 'right'].every(id => document.getElementById(id).videoWidth > 0)")
    assert page.eval_on_selector_all("#photos img", "images => images.map(i => i.naturalWidth)") == [40]
    assert page.is_disabled("#next") and page.is_disabled("#back")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / "study page.png")
    first = videos_on(page)
    answer(page, "left")
    page.click("#next")
    assert videos_on(page) != first
    answer(page, "right")
    page.click("#back")
    assert videos_on(page) == first and page.is_checked("input[name=motion_fluency][value=left]")
    page.click("#next")
    page.reload()  # a person closes the page and comes back
    assert "Pair 2 of 6" in page.inner_text("#place")
    assert page.is_checked("input[name=motion_fluency][value=right]")
    page.click("#next")
    for _ in range(4):
        answer(page, "no difference")
        page.click("#next")
    assert page.is_visible("#save") and not page.is_visible("#ask")
    page.screenshot(path=SHOTS / "study end.png")
    with page.expect_download() as download:
        page.click("#save")
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    with saved.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * len(QUESTIONS) and {row["rater"] for row in rows} == {"Zoë, =1+1"}
    assert [row["choice"] for row in rows[:4]] == [rows[0]["left"]] * 4
    assert [row["choice"] for row in rows[4:8]] == [rows[4]["right"]] * 4
    assert {row["choice"] for row in rows[8:]} == {"equal"}
    shown = page.evaluate("() => data.videos")
    assert shown[rows[0]["left"]] == first[0]
    assert main(["study", str(report), "--tally", str(saved)]) == 0
    with (report / "study-tally.csv").open() as file:
        counted = list(csv.DictReader(file))
    key = json.loads((report / "study-key.json").read_text())["videos"]
    assert len(counted) == 2 * len(QUESTIONS)
    for row in counted:
        given = [answer for answer in rows if answer["question"] == row["question"]]
        given = [
            a for a in given if {key[a["left"]]["method"], key[a["right"]]["method"]} == {row["method"], row["other"]}
        ]
        values = [0.5 if a["choice"] == "equal" else float(key[a["choice"]]["method"] == row["method"]) for a in given]
        assert float(row["share"]) == sum(values) / 3 and row["answers"] == "3"


def test_the_next_person_begins_anew_once_the_answers_are_saved(page: Any) -> None:
    page.fill("#rater", "first")
    page.click("#begin")
    before = state(page)
    for _ in before["order"]:
        answer(page, "left")
        page.click("#next")
    page.reload()
    assert page.is_visible("#save") and page.is_disabled("#another")  # nothing is saved yet
    with page.expect_download():
        page.click("#save")
    page.reload()
    assert page.is_enabled("#another")
    page.click("#revise")
    answer(page, "right")
    page.click("#next")
    assert page.is_disabled("#another")  # what is saved is not what was answered
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename.endswith("-first.csv")
    page.click("#another")
    page.wait_for_function("() => !document.getElementById('start').hidden")
    assert page.input_value("#rater") not in ("", "first")
    page.fill("#rater", "second")
    page.click("#begin")
    after = state(page)
    assert (after["rater"], after["answers"]) == ("second", {})
    assert (after["order"], after["sides"]) != (before["order"], before["sides"])


def test_order_and_side_differ_from_person_to_person(browser: Any, report: Path) -> None:
    orders, lefts = set(), set()
    for _ in range(8):
        context = browser.new_context(offline=True)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto((report / "study.html").as_uri())
        page.click("#begin")
        kept = state(page)
        orders.add(tuple(kept["order"]))
        lefts.add(tuple(kept["sides"][pair][0] for pair in sorted(kept["order"])))
        context.close()
    assert len(orders) > 3 and len(lefts) > 3


def test_prompts_are_shown_as_they_are_and_never_run(page: Any) -> None:
    page.click("#begin")
    seen = set()
    for _ in range(6):
        seen.add(page.inner_text("#prompt"))
        assert page.query_selector("#prompt b") is None
        answer(page, "left")
        page.click("#next")
    assert seen == {prompt.replace("<new1> ", "") for prompt in small_reports.PROMPTS}
