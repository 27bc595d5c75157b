"""A benchmark's report: the paper's tables next to the paper's values, as Markdown, CSV and HTML, with images."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from PIL import Image

from ..evaluation.scoring import METRICS, PAPER_METRICS, Summary, summarize
from ..evaluation.videos import read_video
from ..files.writing import write_bytes
from ..intervals import Interval, bootstrap_mean, outermost
from ..output.sheet import SheetRow, contact_sheet
from .benchmark import CellResult
from .paper_tables import TABLE_1, TABLE_2, PaperRow
from .report_folder import ReportVideo, ReportVideos

NOTHING = "–"
OURS = "customcrafter"
PHOTOS_SHOWN, PHOTO_SIDE = 4, 256
PAGE = "report.html"


@dataclass(frozen=True)
class Table:
    """A table to read; cells may contain newlines."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Format the table as Markdown."""
        lines = [f"## {self.title}", "", "| " + " | ".join(self.head) + " |", "|" + "---|" * len(self.head)]
        lines += ["| " + " | ".join(cell.replace("\n", "<br>") for cell in row) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """Format the table as HTML, with every text escaped."""

        def row(cells: Sequence[str], tag: str) -> str:
            escaped = (html.escape(cell).replace("\n", "<br>") for cell in cells)
            return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in escaped) + "</tr>"

        body = "".join(row(cells, "td") for cells in self.rows)
        return f"<h2>{html.escape(self.title)}</h2><table>{row(self.head, 'th')}{body}</table>"


@dataclass(frozen=True)
class Report:
    """All results of a benchmark."""

    title: str
    results: Sequence[CellResult]
    absent: dict[str, str]
    notes: Sequence[str]
    about: str
    """The base model and the number of runs, in a sentence."""

    def methods(self) -> dict[str, str]:
        """Method name -> title, in the benchmark's order."""
        return {result.cell.method.name: result.cell.method.title for result in self.results}

    def summary(self, method: str) -> Summary:
        """Mean scores of a method."""
        own = [result for result in self.results if result.cell.method.name == method]
        return summarize([result.scores for result in own], groups=[self.unit(result) for result in own])

    @cached_property
    def unit_name(self) -> str:
        """What intervals are over: subjects, or what there are several of where there is one subject."""
        places = [_place(result) for result in self.results]
        subjects, trainings = [place[0] for place in places], [place[1] for place in places]
        return ("subjects", "trainings", "videos")[outermost(subjects, trainings, places)]

    def unit(self, result: CellResult) -> Hashable:
        """What a result is drawn together with: its subject, training or itself, see `unit_name`."""
        place = _place(result)
        return {"subjects": place[0], "trainings": place[1], "videos": place}[self.unit_name]

    def tables(self) -> list[Table]:
        """The paper's Tables 1 and 2, other methods, and differences from CustomCrafter."""
        methods = self.methods()
        in_paper = {row.method for row in (*TABLE_1, *TABLE_2)}
        others = [PaperRow(name, title, (0, 0, 0, 0)) for name, title in methods.items() if name not in in_paper]
        tables = [
            self._table("Table 1: comparison with existing methods", TABLE_1),
            self._table("Table 2: ablation", TABLE_2),
            self._table("Other methods", others, with_paper=False),
            self._differences(),
        ]
        return [table for table in tables if table is not None]

    def _table(self, title: str, rows: Sequence[PaperRow], *, with_paper: bool = True) -> Table | None:
        methods = self.methods()
        lines = []
        for row in rows:
            if row.method in methods:
                means = self.summary(row.method).means
                paper = dict(zip(PAPER_METRICS, row.values, strict=True)) if with_paper else {}
                cells = [_cell(means.get(metric), paper.get(metric)) for metric in METRICS]
                lines.append([row.label if with_paper else methods[row.method], *cells, str(self._count(row.method))])
        return Table(title, ["method", *METRICS, "videos"], lines) if lines else None

    def _count(self, method: str) -> int:
        return sum(result.cell.method.name == method for result in self.results)

    def _differences(self) -> Table | None:
        """Each method's scores minus CustomCrafter's on the same subject, prompt and seed, with paired intervals."""
        methods = self.methods()
        if OURS not in methods or len(methods) < 2:
            return None
        ours = {_place(result): result.scores for result in self.results if result.cell.method.name == OURS}
        lines = []
        for name, title in methods.items():
            pairs = [
                (result.scores, ours[_place(result)], self.unit(result))
                for result in self.results
                if result.cell.method.name == name != OURS and _place(result) in ours
            ]
            if pairs:
                cells = []
                for metric in METRICS:
                    both = [pair for pair in pairs if metric in pair[0] and metric in pair[1]]
                    values = [own[metric] - other[metric] for own, other, _ in both]
                    units = [unit for _, _, unit in both]
                    cells.append(_cell(bootstrap_mean(values, groups=units) if values else None, None, signed=True))
                lines.append([title, *cells, str(len(pairs))])
        head = ["method", *METRICS, "pairs"]
        return Table("Difference from CustomCrafter, paired", head, lines) if lines else None

    def remarks(self) -> list[str]:
        """What a reader needs to know."""
        by_lack: dict[str, list[str]] = {}
        for metric, lack in self.absent.items():
            by_lack.setdefault(lack, []).append(metric)
        missing = [f"Not measured for lack of {lack}: {', '.join(metrics)}." for lack, metrics in by_lack.items()]
        return [
            self.about,
            f"Intervals: 95 %, bootstrap over {self.unit_name}. Below them the paper's values, measured on its own 20 subjects and "
            "200 prompts with VideoCrafter2.",
            *missing,
            *self.notes,
        ]


def _place(result: CellResult) -> tuple[str, int, int, int]:
    cell = result.cell
    return cell.subject.name, cell.training_seed, cell.prompt_number, cell.seed


def _cell(interval: Interval | None, paper: float | None, *, signed: bool = False) -> str:
    if interval is None:
        own = NOTHING
    else:
        form: Callable[[float], str] = "{:+.3f}".format if signed else "{:.3f}".format
        own = form(interval.mean)
        if interval.low is not None and interval.high is not None:
            own += f" [{form(interval.low)}, {form(interval.high)}]"
    return own if paper is None else f"{own}\npaper {paper:.3f}"


def write_report(folder: Path, report: Report, on_sheet: Callable[[int, int], None] | None = None) -> list[Path]:
    """Write the tables, a contact sheet for each subject and prompt, and the list for the preference page.

    Returns:
        The report's main files, in the order to open them.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    tables, remarks = report.tables(), report.remarks()
    sheets = _write_sheets(folder, report, on_sheet)
    height, width = read_video(folder / f"{report.results[0].cell.stem}.mp4")[0].shape[1:3]
    text = f"# {report.title}\n\n" + "\n\n".join(remarks) + "\n\n" + "\n".join(table.markdown() for table in tables)
    text += "".join(f"\n## {name}\n\n![{name}]({path})\n" for name, path in sheets.items())
    _report_videos(folder, report).write(folder)
    return [
        write_bytes(folder / PAGE, _page(report, tables, remarks, (width, height)).encode()),
        write_bytes(folder / "report.md", text.encode()),
        write_bytes(folder / "report.csv", _means_csv(report).encode()),
        write_bytes(folder / "cells.csv", _cells_csv(report).encode()),
    ]


def _sets(report: Report) -> dict[str, list[CellResult]]:
    """Results of the same subject, training seed, prompt and seed, under a readable name."""
    sets: dict[str, list[CellResult]] = {}
    several = len({result.cell.training_seed for result in report.results}) > 1
    for result in report.results:
        cell = result.cell
        prompt = cell.prompt.replace("{}", cell.subject.class_word)
        trained = f", training seed {cell.training_seed}" if several else ""
        sets.setdefault(f"{cell.subject.name}: {prompt} (seed {cell.seed}{trained})", []).append(result)
    return sets


def _write_sheets(folder: Path, report: Report, on_sheet: Callable[[int, int], None] | None) -> dict[str, str]:
    sheets, sets = {}, _sets(report)
    for done, (name, results) in enumerate(sets.items()):
        cell = results[0].cell
        path = f"sheets/{cell.subject.name}-t{cell.training_seed}-p{cell.prompt_number:02d}-s{cell.seed}.png"
        rows = [SheetRow(r.cell.method.title, read_video(folder / f"{r.cell.stem}.mp4")[0]) for r in results]
        picture = io.BytesIO()
        contact_sheet(rows, title=name).save(picture, "PNG")
        write_bytes(folder / path, picture.getvalue())
        sheets[name] = path
        if on_sheet is not None:
            on_sheet(done + 1, len(sets))
    return sheets


def _page(report: Report, tables: Sequence[Table], remarks: Sequence[str], size: tuple[int, int]) -> str:
    """The HTML page; the common ``size`` (width, height) reserves space for videos before they load."""
    parts = [f"<h1>{html.escape(report.title)}</h1>", *(f"<p>{html.escape(remark)}</p>" for remark in remarks)]
    parts += [table.html() for table in tables]
    for name, results in _sets(report).items():
        figures = "".join(_figure(f"{r.cell.stem}.mp4", r.cell.method.title, size) for r in results)
        parts.append(f'<h3>{html.escape(name)}</h3><div class="set">{figures}</div>')
    template = resources.files(__package__).joinpath("assets", PAGE).read_text(encoding="utf-8")
    return template.replace("<!--TITLE-->", html.escape(report.title)).replace("<!--BODY-->", "\n".join(parts))


def _figure(file: str, title: str, size: tuple[int, int]) -> str:
    """A video that the page's script plays while it is visible; without scripts, one with controls."""
    common = f'width="{size[0]}" height="{size[1]}" muted loop playsinline'
    source = html.escape(file)
    return (
        f'<figure><video data-src="{source}" {common}></video>'
        f'<noscript><video src="{source}" {common} preload="none" controls></video></noscript>'
        f"<figcaption>{html.escape(title)}</figcaption></figure>"
    )


def _means_csv(report: Report) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["method", "metric", "mean", "low", "high", "videos", "paper"])
    paper = {(row.method, m): v for row in TABLE_1 + TABLE_2 for m, v in zip(PAPER_METRICS, row.values, strict=True)}
    for method in report.methods():
        for metric, mean in report.summary(method).means.items():
            given = paper.get((method, metric), "")
            writer.writerow([method, metric, mean.mean, mean.low, mean.high, mean.count, given])
    return text.getvalue()


def _cells_csv(report: Report) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["method", "subject", "training_seed", "prompt", "seed", *METRICS, "video"])
    for result in report.results:
        cell = result.cell
        scores = [result.scores.get(metric, "") for metric in METRICS]
        place = [cell.method.name, cell.subject.name, cell.training_seed, result.prompt, cell.seed]
        writer.writerow([*place, *scores, f"{cell.stem}.mp4"])
    return text.getvalue()


def _report_videos(folder: Path, report: Report) -> ReportVideos:
    """What the preference page is made from; only the first training seed is used."""
    first = report.results[0].cell.training_seed
    videos, photos = [], {}
    for result in report.results:
        cell, subject = result.cell, result.cell.subject
        if cell.training_seed == first:
            prompt = cell.prompt.replace("{}", subject.class_word)  # identical for all methods
            videos.append(ReportVideo(f"{cell.stem}.mp4", cell.method.name, subject.name, prompt, cell.seed))
        photos[subject.name] = sorted(
            str(path.relative_to(folder)) for path in (folder / "photos" / subject.name).glob("*.png")
        )
    return ReportVideos(videos, photos)


def write_photos(folder: Path, subject: str, photos: Sequence[Image.Image]) -> None:
    """Save small copies of a subject's first photos in the report."""
    for i, photo in enumerate(photos[:PHOTOS_SHOWN]):
        small, picture = photo.copy(), io.BytesIO()
        small.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
        small.save(picture, "PNG")
        write_bytes(folder / "photos" / subject / f"{i + 1}.png", picture.getvalue())
