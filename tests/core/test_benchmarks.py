"""The benchmarks run and write down what they measured; how fast anything is, no test asks."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch

from benchmarks import growth, motion_onset, results
from benchmarks.__main__ import SECTIONS, main
from benchmarks.results import Row, Section, at_least, at_most, machine, missing, record

QUICK = ["sampling", "strength", "unet", "training", "loading"]
NEEDS_A_HOST = {"host", "start"}


def test_all_that_needs_no_host_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*QUICK, "--quick", "--results", str(tmp_path)])
    kept = json.loads((tmp_path / "results.json").read_text())
    assert list(kept) == QUICK and set(QUICK) | NEEDS_A_HOST | {"growth"} == set(SECTIONS)
    page, printed = (tmp_path / "RESULTS.md").read_text(), capsys.readouterr().out
    for name, section in kept.items():
        assert section["rows"], name
        assert f"## {section['title']}" in page and section["title"] in printed
        assert f"python -m benchmarks {name} " in page
    assert "no checkout of the original given" in page and "no checkout of the original given" in printed
    assert "needs --full" in page


def test_growth_has_a_table_and_a_picture(tmp_path: Path) -> None:
    from benchmarks.setup import Setup

    section = growth.measure(Setup(torch.device("cpu"), "quick", 1))
    record(section, "command", torch.device("cpu"), tmp_path)
    assert {row.what.split(":")[0] for row in section.rows} == {"frames", "positions", "rank", "subjects", "steps"}
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_a_section_measured_again_takes_the_place_of_the_last(tmp_path: Path) -> None:
    device = torch.device("cpu")
    for name, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        rows = [at_most("figure", value, 2.5), at_least("other", value, 2.5), Row("plain", "7")]
        record(Section(name, f"Section {name}", "how", rows), f"command {name}", device, tmp_path)
    page = (tmp_path / "RESULTS.md").read_text()
    assert page.count("## Section a") == page.count("## Section b") == 1
    assert "| figure | 3.000 | at most 2.5 | **missed** |" in page
    assert "| other | 3.000 | at least 2.5 | met |" in page and "| plain | 7 |  |  |" in page


def test_a_section_that_lacks_figures_leaves_a_full_one(tmp_path: Path) -> None:
    device = torch.device("cpu")
    full, partial = (Section("a", "A", "how", [row]) for row in (Row("figure", "1"), missing("figure", "no checkout")))
    assert record(partial, "command", device, tmp_path) and record(full, "command", device, tmp_path)
    assert not record(partial, "command", device, tmp_path)
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| figure | 1 |" in page and "no checkout" not in page


def test_a_quick_run_leaves_the_figures_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in results.FOLDER.iterdir()}
    main(["loading", "--quick"])
    assert "needs --full" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in results.FOLDER.iterdir()} == before


def test_the_machine_is_that_of_the_interpreter_that_did_the_work(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho torch 9.9\n")
    python.chmod(0o755)
    assert machine(torch.device("cpu"), str(python)).endswith("torch 9.9")
    assert f"torch {torch.__version__}" in machine(torch.device("cpu"))


@pytest.mark.parametrize("arguments", [["nothing"], ["unet", "--videocrafter", "."]])
def test_wrong_arguments_are_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "there are sampling" in (told := capsys.readouterr().err) or "has no folder lvdm" in told


def test_the_page_is_what_the_figures_say(tmp_path: Path) -> None:
    """Nobody edited RESULTS.md by hand."""
    kept = json.loads((results.FOLDER / "results.json").read_text())
    page = (results.FOLDER / "RESULTS.md").read_text()
    assert page == results.page(kept)
    assert "/tmp" not in page and "/root" not in page and "/work" not in page


def test_a_stand_in_for_the_original_leaves_nothing_behind(tmp_path: Path) -> None:
    from benchmarks.setup import Setup, random_unet
    from benchmarks.unet import original

    setup = Setup(torch.device("cpu"), "quick", 1)
    before, path = set(sys.modules), list(sys.path)
    with pytest.raises(ModuleNotFoundError), original(tmp_path, random_unet(setup), setup.config):
        pass
    assert isinstance(sys, types.ModuleType) and sys.path == path
    assert ("lvdm" not in sys.modules and "cv2" in before) or "cv2" not in sys.modules


def onset_row(prompt: str, suggested: int | None, right: set[int], moved: set[int] = frozenset()) -> motion_onset.Row:
    """A prompt for which the Ks in ``right`` are right, and those in ``moved`` go the right way only."""
    ks = {*motion_onset.KS, *([] if suggested is None else [suggested])}
    return motion_onset.Row(prompt, 1, suggested, {k: (k in right | moved, k in right) for k in ks}, 90, 100)


def test_the_page_of_motion_onset_says_where_the_suggestion_is_outside() -> None:
    rows = [
        onset_row("inside", 8, {5, 8, 10}),
        onset_row("new and right", 9, {8, 9, 10}),
        onset_row("in a gap", 6, {5, 8}),
        onset_row("late", 13, {8, 13}),
        onset_row("nothing is right", 4, set(), {3, 5}),
        onset_row("still", None, {0, 3}),
    ]
    page = motion_onset.page(rows)
    assert "For 4 of 6 prompts, the suggested K is in the range of the best; for 3 of 6, its video is correct." in page
    assert "at most 4 of 6 correct videos (K = 8)" in page
    assert page.count("Outside") == 2 and 'Outside: "late" (K = 13 suggested, best 8).' in page
    assert 'Outside: "still" (no K suggested, best 0 to 3).' in page
    assert "| inside | 1 | 5, 8, 10 | 5 to 10 | 8 | correct | yes |" in page
    assert "| in a gap | 1 | 5, 8 | 5 to 8 | 6 | **wrong** | yes |" in page
    assert "| late | 1 | 8 | 8 | 13 | correct | **no** |" in page  # its own video is no part of what it is measured by
    assert "| nothing is right | 1 | none | 3 to 5 | 4 | **wrong** | yes |" in page
    assert "| 8 | 4 of 6 | 0.667 [" in page and "| as suggested | 3 of 6 | 0.500 [" in page
    assert "540 steps instead of 600" in page
    assert "Outside" not in motion_onset.page(rows[:2])


def test_motion_onset_writes_page_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [onset_row("a", 8, {8})]
    monkeypatch.setattr(motion_onset, "measure", lambda: rows)
    monkeypatch.setattr(sys, "argv", ["motion_onset", "--out", str(tmp_path)])
    motion_onset.main()
    kept = json.loads((tmp_path / "motion_onset.json").read_text())["rows"]
    assert (
        kept[0]["suggested"] == 8 and kept[0]["right"]["8"] == [True, True] and kept[0]["right"]["5"] == [False, False]
    )
    assert (tmp_path / "motion_onset.md").read_text() == motion_onset.page(rows)
