"""The documentation says nothing that is not there: links, files, options, commands."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import onnxmerge
from onnxmerge.cli.given import parsed
from onnxmerge.cli.main import VERBS
from onnxmerge.cli.options import optimize_parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md"]
PARSERS = {verb: parser for verb, (parser, _) in VERBS.items()} | {"": optimize_parser}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_page_is_in_the_navigation_and_the_other_way_round():
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == [path.relative_to(DOCS).as_posix() for path in PAGES]


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_links_and_named_files_are_there(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)|(?<=src=\")([^\"]+)", text):
        link = target[0] or target[1]
        assert link.startswith("https://") or (path.parent / link).exists(), link
    for file in re.findall(r"`((?:tools|models|onnxmerge|docs|tests)/[\w./*-]+)`", text):
        assert list(ROOT.glob(file)), file


@pytest.mark.parametrize("verb", PARSERS)
def test_the_page_on_the_command_line_has_every_option(verb):
    """Where this fails: python tools/docs_help.py."""
    sections = (DOCS / "command-line.md").read_text(encoding="utf-8").split("\n## ")[1:]
    section = next(s for s in sections if s.startswith(f"onnxmerge {verb or 'IN OUT'}"))
    flags = {flag for action in PARSERS[verb]()._actions for flag in action.option_strings}
    assert set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", section)) >= flags


def commands() -> list[tuple[str, str]]:
    found = []
    for path in PAGES:
        for block in re.findall(
            r"^```\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(name(path), line) for line in lines if line.startswith("onnxmerge ")]
    return found


@pytest.mark.parametrize("path, command", commands())
def test_commands_are_understood(path, command):
    words = shlex.split(command)[1:]
    verb = words[0] if words[0] in PARSERS else ""
    parsed(PARSERS[verb](), words[1:] if verb else words)


def test_commands_are_found():
    assert len(commands()) > 8


def test_the_version_is_stated_once(capsys):
    with pytest.raises(SystemExit, match="0"):
        optimize_parser().parse_args(["--version"])
    assert capsys.readouterr().out == f"onnxmerge {onnxmerge.__version__}\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "onnxmerge.version.__version__"
