"""Names that come from people or workflows: a file lies right in its folder, or the name is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from customcrafter_core.errors import InputError
from customcrafter_core.files.names import MAX_NAME_BYTES, file_inside
from tests.core.shipped import (
    ENCODER,
    FLOW,
    GOOD_NAMES,
    MODELS,
    NO_MODELS,
    STRANGE_CHOICES,
    STRANGE_NAMES,
    installed_on,
)
from tests.host.running_host import NO_HOST, found_hosts

SUFFIX = ".safetensors"
each_host = pytest.mark.parametrize("host", found_hosts() or [None], ids=lambda host: host.name if host else "no host")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for files, in which a link leads out."""
    (tmp_path / "loras").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    (tmp_path / "loras" / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    return tmp_path / "loras"


@pytest.mark.parametrize("name", STRANGE_NAMES, ids=lambda name: ascii(name)[:30])
def test_strange_names_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="plain file name") as caught:
        file_inside(folder, name, SUFFIX)
    assert len(str(caught.value)) < 3 * MAX_NAME_BYTES + 200


@pytest.mark.parametrize("name", GOOD_NAMES, ids=lambda name: ascii(name)[:30])
def test_other_names_are_files_in_the_folder(folder: Path, name: str) -> None:
    path = file_inside(folder, name, SUFFIX)
    assert path.parent == folder and path.name == f"{name}{SUFFIX}"
    path.write_bytes(b"subject")
    assert path.resolve() == folder.resolve() / path.name


def test_the_folder_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    """Many keep their models on another disk."""
    (tmp_path / "linked").symlink_to(folder, target_is_directory=True)
    file_inside(tmp_path / "linked", "dog", SUFFIX).write_bytes(b"subject")
    assert (folder / "dog.safetensors").is_file()
    with pytest.raises(InputError, match="leads out"):
        file_inside(tmp_path / "linked", "link", SUFFIX)


# --- the nodes, on a real host ----------------------------------------------------------------------------------------


@each_host
@pytest.mark.parametrize("where", ["saved", "trained"])
def test_no_name_leads_out_of_the_hosts_folder(host: Path | None, where: str) -> None:
    if host is None:
        pytest.skip(NO_HOST)
    answer = installed_on(host)
    loras, names = Path(answer["base"]) / "models" / "loras", STRANGE_NAMES + GOOD_NAMES
    outcomes = dict(zip(names, answer[where], strict=True))
    for name, (kind, value) in outcomes.items():
        assert kind != "made" or Path(value).parent == loras, name
    for name in ("../out", "a/b", "/etc/passwd", "..", "", "link"):
        assert outcomes[name][0] == "InputError", name
    assert all(outcomes[name] == ["made", str(loras / f"{name}{SUFFIX}")] for name in GOOD_NAMES)


@each_host
@pytest.mark.parametrize("where", ["saved", "trained"])
def test_strange_names_are_refused_by_the_nodes(host: Path | None, where: str) -> None:
    if host is None:
        pytest.skip(NO_HOST)
    outcomes = dict(zip(STRANGE_NAMES, installed_on(host)[where], strict=False))
    stripped = {" "}  # nodes take away spaces around a name
    wrong = {name: told for name, told in outcomes.items() if told[0] != "InputError" and name not in stripped}
    assert not wrong


@each_host
@pytest.mark.parametrize("kind", ["checkpoints", "loras"])
def test_a_choice_that_is_not_on_the_list_reads_nothing(host: Path | None, kind: str) -> None:
    if host is None:
        pytest.skip(NO_HOST)
    answer = installed_on(host)
    for name, (chosen, text), changed in zip(
        STRANGE_CHOICES, answer["chosen"][kind], answer["changed"][kind], strict=True
    ):
        assert chosen == "InputError" and "Choose one from the list" in text, name
        assert changed == ["made", "0"], name


@each_host
@pytest.mark.parametrize(
    ("kind", "own", "other"),
    [("clip", ENCODER, FLOW), ("dino", ENCODER, FLOW), ("raft", FLOW, ENCODER)],
)
def test_a_model_for_scores_is_one_of_the_list(host: Path | None, kind: str, own: str, other: str) -> None:
    """By its name there, and nothing else; a link that lies in the host's folder is on the list, as all models are."""
    if host is None:
        pytest.skip(NO_HOST)
    answer = installed_on(host)
    outcomes = dict(zip(MODELS, answer["scored with"][kind], strict=True))
    folder = Path(answer["base"]) / "models" / ("optical_flow" if kind == "raft" else "clip_vision")
    for name in (*NO_MODELS, other):
        chosen, text = outcomes[name]
        assert chosen == "InputError" and f"a {kind} from the list" in text, name
    assert outcomes["none"] == ["made", "None"] and outcomes[own] == ["made", str(folder / own)]
    linked = "linked.pth" if kind == "raft" else "linked"
    assert outcomes[linked] == ["made", str(folder / linked)]
