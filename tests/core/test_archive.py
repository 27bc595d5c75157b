"""The archive that the Comfy registry would ship: what is in it, what it installs, and that any folder's name will do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from PIL import Image

from tests.core.shipped import NAMES, build_archive, installed_on, shipped_files
from tests.host.running_host import NO_HOST, ROOT, found_hosts, host_python, host_version

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

LARGEST = 16_000_000  # bytes; 12 MB of it are the demo model
KINDS = {
    ".py",
    ".json",
    ".md",
    ".txt",
    ".toml",
    ".safetensors",
    ".html",
    ".js",
    ".jpg",
    ".png",
    ".webp",
    ".gif",
    ".mp4",
}
DEVELOPMENT = ("tests/", "benchmarks/", "tools/", ".ci/", "output/")
PLACEHOLDER = "YOUR-PUBLISHER-ID"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMFY = PROJECT["tool"]["comfy"]
each_host = pytest.mark.parametrize("host", found_hosts() or [None], ids=lambda host: host.name if host else "no host")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_archive(tmp_path_factory.mktemp("archive") / "pack.zip")


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_it_holds_the_pack_and_nothing_else(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
    assert names == shipped_files() and len(names) == len({name.lower() for name in names}) > 100
    assert archive.stat().st_size < LARGEST
    assert not [name for name in names if name.startswith(DEVELOPMENT)]
    hidden = [name for name in names if any(part.startswith(".") for part in Path(name).parts)]
    kinds = {Path(name).suffix for name in names if Path(name).name != "LICENSE"}
    assert not hidden and kinds <= KINDS, kinds - KINDS
    assert not [name for name in names if (ROOT / name).is_symlink()]


def test_all_that_it_needs_is_there() -> None:
    names = set(shipped_files())
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "SECURITY.md"} <= names
    known = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    whole = [
        n
        for n in known.split("\0")
        if n.startswith(("nodes/", "customcrafter_core/", "workflows/", "web/", "locales/", "subgraphs/"))
    ]
    assert set(whole) <= names and len(whole) > 100
    templates = [name for name in names if name.startswith("workflows/") and name.endswith(".json")]
    pictures = [name.replace(".json", ".jpg") for name in templates]
    assert pictures and set(pictures) <= names
    assert len({(ROOT / name).read_bytes() for name in pictures}) == len(pictures), "each has one of its own"


LEFT_OUT = {
    "benchmarks/RESULTS.md", "benchmarks/demo_world.md", "benchmarks/exact_world.md", "benchmarks/motion_onset.md",
    "docs/architecture.md",
}  # fmt: skip
"""Where links of the README lead nowhere in the archive, as the numbers stay out of it; it says the rest itself."""


def links_of(text: str) -> tuple[set[str], set[str]]:
    """What a page shows, by either way to write a picture, and the files that it leads to; without other places."""
    shown = re.findall(r"!\[[^]]*\]\(([^)\s]+)|<(?:img|video|source)\b[^>]*?\bsrc=[\"']([^\"']+)", text)
    led = re.findall(r"(?<!!)\[[^]]*\]\(([^)\s]+)|<a\b[^>]*?\bhref=[\"']([^\"']+)", text)
    pictures, files = ({unquote("".join(pair)).partition("#")[0] for pair in found} for found in (shown, led))
    return tuple({link for link in links if link and "://" not in link} for links in (pictures, files))


def test_links_of_a_page_are_found() -> None:
    page = """![a](one.png) and <img alt="b" src="two%20words.jpg" height="1"> and ![c](https://a.b/c.png)
    [d](three.md#part), [e](#part), [f](https://a.b), <a href="four.md">g</a>, <video src='five.mp4'>"""
    assert links_of(page) == ({"one.png", "two words.jpg", "five.mp4"}, {"three.md", "four.md"})


def test_pages_show_and_name_what_is_in_it() -> None:
    names, dead = set(shipped_files()), set()
    pages = {name: links_of((ROOT / name).read_text(encoding="utf-8")) for name in names if name.endswith(".md")}
    assert len(pages["README.md"][0]) > 6 and len(pages) > 30
    for name, (shown, led) in pages.items():
        if name.startswith("web/"):
            continue  # shown by the page, not from the folder: see test_help_pages.py
        assert shown <= names, name
        assert all((ROOT / link).is_file() for link in led), name
        dead |= led - names
    assert dead == LEFT_OUT


# --- what the registry is told ----------------------------------------------------------------------------------------


def test_the_publisher_has_to_be_filled_in_and_nothing_else() -> None:
    """In lines that stand together, by the one command that the comment above them gives."""
    assert COMFY["PublisherId"] == PLACEHOLDER and 0 < len(COMFY["DisplayName"]) < 40
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = [number for number, line in enumerate(text.splitlines()) if PLACEHOLDER in line and line[0] != "#"]
    assert len(lines) == 4 and lines[-1] - lines[0] < 8
    (command,) = re.findall(r"sed -i s/(\S+)/name/ pyproject\.toml", text)
    filled = tomllib.loads(re.sub(command, "name", text))
    told = [filled["project"]["urls"]["Repository"], filled["tool"]["comfy"]["Icon"], filled["tool"]["comfy"]["Banner"]]
    assert all("/name/customcrafter" in url for url in told) and filled["tool"]["comfy"]["PublisherId"] == "name"
    holds = subprocess.run(["git", "grep", "-l", PLACEHOLDER], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert set(holds) <= {"pyproject.toml", Path(__file__).relative_to(ROOT).as_posix()}


@pytest.mark.parametrize(("kind", "width", "height"), [("Icon", 400, 400), ("Banner", 1680, 720)])
def test_icon_and_banner(kind: str, width: int, height: int) -> None:
    path = ROOT / "docs" / COMFY[kind].rpartition("/docs/")[2]
    with Image.open(path) as picture:
        assert picture.size == (width, height) and picture.format == "PNG"
        extrema = picture.convert("RGB").getextrema()
    assert all(high - low > 100 for low, high in extrema)  # there is something to see
    assert path.stat().st_size < 500_000


def test_versions_agree() -> None:
    version = PROJECT["project"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0] == version
    wanted = {Requirement(line).name: Requirement(line) for line in PROJECT["project"]["dependencies"]}
    installed = {requirement.name: requirement for requirement in requirements()}
    assert wanted.keys() == installed.keys()
    for name, requirement in installed.items():
        assert requirement.specifier in (wanted[name].specifier, SpecifierSet()), name


@each_host
def test_the_hosts_tested_are_hosts_supported(host: Path | None) -> None:
    if host is None:
        pytest.skip(NO_HOST)
    assert ".".join(map(str, host_version(host))) in SpecifierSet(COMFY["requires-comfyui"])


# --- what it installs -------------------------------------------------------------------------------------------------


def requirements(folder: Path = ROOT) -> list[Requirement]:
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def would_install(python: str, *arguments: str) -> dict[str, str]:
    """What pip would install into an environment: name -> version."""
    command = [python, "-m", "pip", *arguments, "--quiet", "--report", "-"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if result.returncode:
        raise RuntimeError(result.stderr[-3000:])
    entries = [entry["metadata"] for entry in json.loads(result.stdout)["install"]]
    return {canonicalize_name(entry["name"]): entry["version"] for entry in entries}


NO_ANSWER = (RuntimeError, subprocess.TimeoutExpired)
"""What a call of pip ends with where the index is away or slow."""


def test_nothing_is_pinned() -> None:
    pins = [str(one) for one in requirements() for clause in one.specifier if clause.operator != ">="]
    assert not pins and not [one for one in requirements() if one.name in ("torch", "numpy") and one.specifier]


@each_host
def test_it_replaces_nothing_where_it_is_installed(host: Path | None) -> None:
    if host is None:
        pytest.skip(NO_HOST)
    assert would_install(host_python(host), "install", "--dry-run", "-r", "requirements.txt") == {}


@each_host
def test_it_replaces_nothing_of_a_fresh_host(host: Path | None, tmp_path: Path) -> None:
    """pip sees an environment by its metadata: a copy of that, without what the host itself did not ask for."""
    if host is None:
        pytest.skip(NO_HOST)
    own = {canonicalize_name(requirement.name) for requirement in requirements(host)}
    extras = {canonicalize_name(requirement.name) for requirement in requirements()} - own
    assert {"diffusers", "peft"} <= extras
    python, remaining = fresh_copy(host, tmp_path / "fresh", extras)
    assert {"torch", "numpy", "transformers"} <= remaining
    arguments = ["--python", str(python), "install", "--dry-run"]
    ours = [*arguments, "-r", "requirements.txt"]
    try:
        found = would_install(host_python(host), *ours)
    except NO_ANSWER:
        if not index_answers(host_python(host), arguments):
            pytest.skip("NO PACKAGE INDEX: what a fresh host would have to install was not tested")
        found = would_install(host_python(host), *ours)
    assert extras <= found.keys()
    assert not found.keys() & remaining, "these would be replaced"


def fresh_copy(host: Path, folder: Path, without: set[str]) -> tuple[Path, set[str]]:
    """An environment that pip takes for the host's, less some packages: its Python, and what is installed."""
    subprocess.run([host_python(host), "-m", "venv", "--without-pip", str(folder)], check=True)
    tell = "import sysconfig; print(sysconfig.get_path('purelib'))"
    source, target = (
        Path(subprocess.run([python, "-c", tell], capture_output=True, text=True, check=True).stdout.strip())
        for python in (host_python(host), str(folder / "bin" / "python"))
    )
    remaining = set()
    for path in source.glob("*.dist-info"):
        name = canonicalize_name(path.name.split("-")[0])
        if name not in without:
            (target / path.name).mkdir()
            shutil.copy(path / "METADATA", target / path.name / "METADATA")
            remaining.add(name)
    return folder / "bin" / "python", remaining


def index_answers(python: str, arguments: list[str]) -> bool:
    """Whether an index of packages can be reached at all."""
    try:
        return bool(would_install(python, *arguments, "--no-deps", "peft"))
    except NO_ANSWER:
        return False


# --- that it works ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@each_host
def test_it_works_from_a_folder_of_any_name(host: Path | None) -> None:
    if host is None:
        pytest.skip(NO_HOST)
    answer: dict[str, Any] = installed_on(host)
    assert answer["loaded"].keys() == set(NAMES)
    ids = sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))
    for name, (is_loaded, nodes) in answer["loaded"].items():
        assert is_loaded and nodes == ids, f"{name}: {answer['log'][-3000:]}"
    assert answer["core"] == []  # the core is inside the pack's package, not a module that others could take
    assert len(answer["web"]) == len(NAMES)
    assert answer["demo"] == "ModelPatcher"  # the demo model was in the archive
