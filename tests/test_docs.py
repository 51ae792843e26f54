"""The documentation is correct: links, command lines, flags, defaults, error codes, files and functions in it exist."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import train_pytorch_model as tpm
from tests import documentation
from train_pytorch_model import errors
from train_pytorch_model.cli.parser import build_parser
from train_pytorch_model.modules.transform_options import TransformOptions
from train_pytorch_model.parameters import TrainingParameters

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FURTHER = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")
PAGES = [*(ROOT / name for name in FURTHER), *sorted(DOCS.glob("*.md"))]
# Flags of az, pip and torchrun, and of the project's tools.
OTHER_FLAGS = {
    *("--set", "--defaults", "--file", "--name", "--output-name", "--download-path", "--all-traffic"),
    *("--no-deps", "--require-hashes", "--nproc-per-node", "--max-restarts", "--kills", "--real", "--threads"),
    *("--sets", "--seeds", "--contestants", "--data"),
}
# Files of a trained model.
SERVED = {"score.py", "served_model.py", "image_formats.py", "image_geometry.py"}
COMMAND = re.compile(
    r"(?:train-pytorch-model|python -m train_pytorch_model|torchrun (?:--\S+ \d+ )*-m train_pytorch_model) (.+)"
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def code_lines(path: Path) -> list[str]:
    """The lines of fenced blocks, with continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text_of(path), re.MULTILINE | re.DOTALL)
    return "".join(blocks).replace("\\\n", " ").splitlines()


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```", "", text_of(path), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    objects = re.findall(r"^::: (\S+)$", prose(path), re.MULTILINE)
    return {*objects, *(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)}


def commands() -> Iterator[tuple[str, str]]:
    for path in PAGES:
        for line in code_lines(path):
            match = COMMAND.match(line.strip())
            if match:
                yield name_of(path), match[1]


def subparsers() -> dict[str, argparse.ArgumentParser]:
    actions = build_parser()._actions
    return next(dict(action.choices) for action in actions if isinstance(action, argparse._SubParsersAction))


def rows(path: Path) -> list[list[str]]:
    """The cells of a page's tables."""
    lines = [line for line in text_of(path).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings_that_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_page_is_in_the_overview_the_readme_and_the_navigation() -> None:
    site = YAML(typ="safe").load(text_of(ROOT / "mkdocs.yml"))
    entries = [page for part in site["nav"] for page in part.values()]
    listed = {page for part in entries for page in ([part] if isinstance(part, str) else [*map(_only, part)])}
    written = {path.name for path in DOCS.glob("*.md")}
    assert written <= listed
    for page in written - {"index.md"}:
        assert f"]({page})" in text_of(DOCS / "index.md"), page
        assert f"](docs/{page}" in text_of(ROOT / "README.md"), page


def _only(entry: dict[str, str]) -> str:
    return next(iter(entry.values()))


def test_the_readme_is_short() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


def test_command_lines_are_understood() -> None:
    seen = set()
    for page, line in commands():
        try:
            seen.add(build_parser().parse_args(shlex.split(line)).command)
        except SystemExit:
            pytest.fail(f"{page}: {line}")
    assert seen == set(subparsers())


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_flags_exist(path: Path) -> None:
    known = {flag for parser in subparsers().values() for action in parser._actions for flag in action.option_strings}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text_of(path)))
    if path.name == "development.md":
        named.discard("--help")
    assert named <= known | OTHER_FLAGS, named - known - OTHER_FLAGS


def test_the_page_of_parameters_has_each_with_its_range_and_default() -> None:
    table = {row[0].strip("`"): row for row in rows(DOCS / "parameters.md") if row[0].startswith("`--")}
    for name, definition in TrainingParameters.definitions().items():
        flag = "--" + name.replace("_", "-")
        _, values, default, meaning = table[flag]
        assert default.strip("`") == str(TrainingParameters.default(name)).replace("True", "true").replace(
            "False", "false"
        ), flag
        assert [word for word in definition.words if f"`{word}`" not in values] == [], flag
        assert (definition.greater_than is not None) == ("> 0" in values), flag
        assert (definition.at_least is not None) == (f">= {definition.at_least}" in values), flag
        assert (definition.kind is bool) == (values == "`true`, `false`"), flag
        assert definition.optional == ("`none`" in values and "none" not in definition.words), flag
        assert meaning, flag
    actions = subparsers()["train"]._actions
    shown = {action.option_strings[-1] for action in actions if action.help != argparse.SUPPRESS}
    assert set(table) == shown - {"--help"}


def test_the_page_of_modules_has_each_option_of_a_transformation_with_its_default() -> None:
    defaults = {row[0].strip("`"): row[1].strip("`") for row in rows(DOCS / "modules.md") if row[0].startswith("`--")}
    for option in fields(TransformOptions):
        assert defaults["--" + option.name.replace("_", "-")] == str(option.default).lower(), option.name


def test_functions_are_on_the_page_of_the_api() -> None:
    for name in tpm.__all__:
        if name.islower() and not name.startswith("_"):
            assert f"\n::: train_pytorch_model.api.{name}\n" in text_of(DOCS / "api.md"), name


def test_old_names_are_on_the_page_of_migration() -> None:
    for definition in TrainingParameters.definitions().values():
        for alias in definition.aliases:
            assert f"`{alias}" in text_of(DOCS / "migration.md")


def test_errors_are_on_their_page_with_their_codes() -> None:
    table = [row[:2] for row in rows(DOCS / "errors.md")]
    codes = {name: code for cell, code in table for name in cell.split(", ")}
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, errors.ModuleError) and "error_id" in vars(error):
            assert codes[error.error_id] == str(error.code)


def test_files_and_functions_that_are_named_exist() -> None:
    package = ROOT / "src" / "train_pytorch_model"
    for path in PAGES:
        for name in re.findall(r"`([\w./-]+\.py)`", prose(path)):
            assert (package / name).is_file() or (ROOT / name).is_file() or name in SERVED, (path.name, name)
        for function, name in re.findall(r"`(\w+)` in `([\w./-]+\.py)`", prose(path)):
            assert re.search(rf"def {function}\(", text_of(package / name)), (path.name, function)


def test_every_room_of_the_package_is_on_the_page_of_development() -> None:
    package = ROOT / "src" / "train_pytorch_model"
    folders = {f"{file.parent.name}/" for file in package.glob("*/__init__.py")}
    for room in folders | {file.name for file in package.glob("*.py")}:
        assert f"`{room}`" in text_of(DOCS / "development.md"), room


def test_examples_in_python_are_python() -> None:
    for path in PAGES:
        for block in re.findall(r"^```python\n(.*?)^```", text_of(path), re.MULTILINE | re.DOTALL):
            ast.parse(block)


@pytest.mark.thorough
@pytest.mark.environment
def test_the_site_builds_strictly_and_its_pages_fetch_nothing(tmp_path: Path) -> None:
    result = documentation.build(tmp_path / "site")
    assert result.returncode == 0, result.stdout + result.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list(DOCS.glob("*.md")))
    for page in pages:
        assert not re.search(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', text_of(page)), page
