"""What the README and the documentation say can be typed: commands, options, files, links and Python blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from typer.main import get_command

import xeflow

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL_VARIABLE = re.compile(r"\$\w+")
LINK = re.compile(r"\]\((?!\w+://)([^)#]+)")


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of one language on a page."""
    return [text for kind, text in FENCE.findall((ROOT / page).read_text(encoding="utf-8")) if kind == language]


def commands(page: str) -> Iterator[list[str]]:
    """Yield the words of each command on a page; a backslash continues a line, a hash begins a comment."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def options_of(verb: str) -> set[str]:
    """Return the options that a verb declares."""
    single = typer.Typer(add_completion=False)
    single.command(verb)(xeflow.load(xeflow.VERBS[verb].place))
    return {option for parameter in get_command(single).params for option in parameter.opts} | {"--help", "--debug"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in commands(page):
        if words[0] == "make":
            assert set(words[1:]) <= targets, words
        elif words[0] == "xeflow" and not words[1].startswith("-"):
            assert words[1] in xeflow.VERBS, words
            given = {w.split("=")[0] for w in words[2:] if w.startswith("--")}
            assert given <= options_of(words[1]), words


def made_by(page):
    """Yield the checkpoints that the page's own trainings make."""
    for words in commands(page):
        if words[:2] == ["xeflow", "train"]:
            yield f"checkpoints/{Path(words[2]).stem}"
            yield from (value for key, value in pairwise(words) if key == "--checkpoint")


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page):
    made = set(made_by(page))
    for words in commands(page):
        named = [w for w in words if w.startswith(("configs/", "checkpoints/")) and w not in made]
        missing = [w for w in named if not any(ROOT.glob(SHELL_VARIABLE.sub("*", w)))]
        assert not missing, words
    text = FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    broken = [target for target in LINK.findall(text) if not (ROOT / page).parent.joinpath(target).exists()]
    assert not broken


def test_the_index_leads_to_every_page():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert {f"docs/{target}" for target in LINK.findall(index)} >= {p for p in PAGES if p.startswith("docs/")} - {
        "docs/index.md"
    }


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")])
def test_python_blocks_run(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {"__name__": "__readme__"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)  # noqa: S102 (the project's own pages)
