"""Rules for files: short, free of anyone's home folder, and telling of commands that exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.core
import typer.main

from redecode.cli.main import app

ROOT = Path(__file__).parents[2]
LONGEST = 500
SKIPPED = {"build", "dist", "__pycache__"}
HOME = re.compile(r"/(home|root|Users|work|tmp/[a-z])/\w+")
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def files(folder: Path = ROOT) -> Iterator[Path]:
    """The files of the checkout, without what is built or cached in it."""
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".") and path.name not in {".ci", ".gitignore"}
        if hidden or path.name in SKIPPED or path.name.endswith(".egg-info"):
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    found = [f"{path.relative_to(ROOT)}: {hit[0]}" for path in files() if (hit := HOME.search(text(path) or ""))]
    assert found == []


def test_no_module_is_longer_than_a_sitting() -> None:
    lengths = {path.relative_to(ROOT): (text(path) or "").count("\n") for path in files() if path.suffix == ".py"}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST} == {}


def test_the_changelog_tells_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert re.search(
        rf"^## \[?{re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )


def commands(document: Path) -> Iterator[list[str]]:
    """The words of each fenced line that calls `make` or `redecode`."""
    for block in FENCE.findall(document.read_text(encoding="utf-8")):
        for line in block.splitlines():
            words = line.partition(" #")[0].removeprefix("$ ").split()
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words and words[0].removeprefix(".venv/bin/") in {"make", "redecode"}:
                yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


def complaint(words: list[str]) -> str | None:
    """What is wrong with a command in a document."""
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        missing = [word for word in words[1:] if re.fullmatch(r"[a-z]+", word) and word not in targets]
        return f"no target {missing}" if missing else None
    command = typer.main.get_command(app)
    rest = words[1:]
    while isinstance(command, typer.core.TyperGroup) and rest and not rest[0].startswith("-"):
        default: str = getattr(command, "default", "")  # `redecode nightly FILE`
        if rest[0] not in command.commands and not default:
            return f"no verb {rest[0]}"
        command = command.commands[rest.pop(0) if rest[0] in command.commands else default]
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    own = rest[: rest.index("--")] if "--" in rest else rest
    missing = [word for word in own if word.startswith("--") and word.partition("=")[0] not in options]
    return f"no option {missing}" if missing else None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_commands_that_exist(document: Path) -> None:
    found = {" ".join(words): why for words in commands(document) if (why := complaint(words))}
    assert found == {}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("make demo", None),
        ("make party", "no target ['party']"),
        ("redecode runs --json", None),
        ("redecode engine start", None),
        ("redecode engine dance", "no verb dance"),
        ("redecode record -- python app.py --fast", None),
        ("redecode runs --sideways", "no option ['--sideways']"),
    ],
)
def test_a_wrong_command_is_caught(line: str, why: str | None) -> None:
    assert complaint(line.split()) == why


def test_the_readme_shows_the_two_commands() -> None:
    shown = [" ".join(words) for words in commands(ROOT / "README.md")]
    assert {"make demo", "make test"} <= set(shown)
