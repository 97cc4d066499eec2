# SPDX-License-Identifier: Apache-2.0
"""Guards the layout that ARCHITECTURE.md and CONTRIBUTING.md promise: a stray file or a stale claim is an error."""

import ast
import ipaddress
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest

from l7ctl.main import main as l7ctl
from l7policy import verdict

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPONENTS = tuple(PYPROJECT["tool"]["hatch"]["build"]["dev-mode-dirs"])
PACKAGES = tuple(Path(path) for path in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
OTHER_FOLDERS = {"LICENSES", "bench", "deploy", "docs", "examples", "scripts", "tests"}
BUILT = {"dist", "build"}
MAX_LINES = 500
ORACLE = (ROOT / "tests/oracle/plain", ROOT / "tests/oracle/generated")
"""A second evaluator of policies and what it is asked about: too large for a conftest."""
CHILD = Path("bpf/l7bpf/compile_child.py")
"""The one program that may import bcc: it runs under the system's interpreter, and not as a part of l7bpf."""

PURE = ("l7policy", "l7observe", "l7ctl", "l7dns", "l7proxy")
"""Packages each of whose modules has a test of its own, except:"""
TESTED_ELSEWHERE = {
    # Values without behaviour.
    "l7policy.ids",
    "l7policy.model",
    "l7observe.flow",
    "l7proxy.commands",
    "l7proxy.judge",
    "l7proxy.limits",
    "l7proxy.phase",
    # A part of l7proxy.exchange, and tested with it.
    "l7proxy.transaction",
    # What other tests are made with: reads of the clock, tables in dictionaries.
    "l7dns.clock",
    "l7dns.kerneltables",
    # Tested with every table, in l7ctl.tables.
    "l7ctl.identity",
    # Sockets, processes, kernel maps, and the records of them: tested by the integration tests, on real traffic.
    "l7ctl.demo",
    "l7dns.exchange",
    "l7dns.kernel",
    "l7dns.listener",
    "l7dns.record",
    "l7dns.reply",
    "l7dns.server",
    "l7dns.sockets",
    "l7dns.upstream",
}

MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted(path.relative_to(ROOT) for top in ("tests", "bench") for path in (ROOT / top).rglob("*.py"))
PYTHON = [*MODULES, *TESTS]
C_FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "bpf/programs").glob("*.[ch]"))
DOCUMENTS = sorted(
    path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md"))
)


def _lines(path: Path) -> list[str]:
    return (ROOT / path).read_text("utf-8").splitlines()


def test_the_top_level_holds_the_components_and_nothing_unexpected() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert set(COMPONENTS) <= folders <= {*COMPONENTS, *OTHER_FOLDERS, *BUILT}


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_has_a_short_readme_and_exactly_one_package(component: str) -> None:
    folder = ROOT / component
    assert [path.parent.relative_to(ROOT) for path in folder.glob("*/__init__.py")] == [
        path for path in PACKAGES if path.parts[0] == component
    ]
    assert 5 <= len((folder / "README.md").read_text("utf-8").splitlines()) <= 30


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_a_package_is_typed(package: Path) -> None:
    assert (ROOT / package / "py.typed").exists()


@pytest.mark.parametrize("path", PYTHON, ids=str)
def test_a_python_file_is_licensed_in_its_first_line(path: Path) -> None:
    lines = _lines(path)
    head = lines[1] if lines[0].startswith("#!") else lines[0]
    assert head == "# SPDX-License-Identifier: Apache-2.0"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    assert ast.get_docstring(tree) or (path.name == "__init__.py" and not tree.body)


@pytest.mark.parametrize("path", C_FILES, ids=str)
def test_a_bpf_source_has_the_dual_licence(path: Path) -> None:
    assert "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause" in _lines(path)[0]


@pytest.mark.parametrize("path", [*MODULES, *C_FILES], ids=str)
def test_a_module_is_short_enough_to_be_one_noun(path: Path) -> None:
    assert len(_lines(path)) <= MAX_LINES


@pytest.mark.parametrize("path", [*MODULES, *C_FILES], ids=str)
def test_nothing_is_left_to_be_done_later(path: Path) -> None:
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", "\n".join(_lines(path)))


@pytest.mark.parametrize("path", [path for path in PYTHON if path != CHILD], ids=str)
def test_only_the_compiling_child_imports_bcc(path: Path) -> None:
    for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not any(name.split(".")[0] == "bcc" for name in names)


@pytest.mark.parametrize("package", [package for package in PACKAGES if package != Path("bpf/l7bpf")], ids=str)
def test_nobody_imports_the_compiling_child(package: Path) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert "import compile_child" not in path.read_text("utf-8")


def test_the_tests_are_no_package_and_share_only_through_conftest() -> None:
    stray = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if not (path.name.startswith("test_") or path.name == "conftest.py" or path.parent in ORACLE)
    ]
    assert stray == []


def test_the_oracle_imports_nothing_of_what_it_judges() -> None:
    for path in (path for folder in ORACLE for path in folder.glob("*.py")):
        assert not re.search(r"^\s*(from|import) l7", path.read_text("utf-8"), re.MULTILINE), path


@pytest.mark.parametrize("kind", ["unit", "property"])
def test_every_unit_and_property_test_mirrors_a_module(kind: str) -> None:
    modules = {(path.parent.name, path.stem) for path in MODULES}
    stray = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests" / kind).rglob("test_*.py")
        if path.parent.name != "scripts" and (path.parent.name, path.stem.removeprefix("test_")) not in modules
    ]
    assert stray == []


@pytest.mark.parametrize("package", PURE)
def test_every_module_that_can_be_tested_alone_is(package: str) -> None:
    tested = {
        f"{path.parent.name}.{path.stem.removeprefix('test_')}"
        for kind in ("unit", "property")
        for path in (ROOT / "tests" / kind / package).glob("test_*.py")
    }
    modules = {
        f"{path.parent.name}.{path.stem}" for path in MODULES if path.parent.name == package and path.stem != "__init__"
    }
    assert sorted(modules - tested - TESTED_ELSEWHERE) == []
    gone = {name for name in TESTED_ELSEWHERE if name.startswith(f"{package}.")} - modules
    assert gone == set()


def test_the_kernels_reasons_are_the_tables() -> None:
    assert (ROOT / "bpf/programs/reasons.h").read_text() == verdict.c_header()


def test_the_changelog_has_this_version_and_the_newest_first() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0] == PYPROJECT["project"]["version"]
    assert PYPROJECT["project"]["version"] in headings
    versions = [tuple(map(int, heading.split("."))) for heading in headings if heading != "Unreleased"]
    assert all(newer > older for newer, older in pairwise(versions))


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs/adr").glob("[0-9]*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


COMMAND = re.compile(r"\s*(?:[$#] )?(?:sudo )?((?:l7ctl|make)(?: .*)?)")


def _commands(document: Path) -> Iterator[tuple[int, list[str]]]:
    """Command lines in the code blocks of a document, with their line numbers."""
    fenced = False
    for number, line in enumerate(_lines(document), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif (
            fenced
            and "─" not in line
            and (found := re.match(r"\s*(?:[$#] )?(?:sudo )?((?:l7ctl|make)(?: .*)?)$", line))
        ):
            command = re.split(r"\s+(?:#|\||&&|>|;)(?:\s|$)", found[1])[0]
            try:
                yield number, shlex.split(command)
            except ValueError:
                yield number, command.split()


def _check_l7ctl(words: list[str]) -> str:
    """What is wrong with the command line, or nothing."""
    command: click.Command = l7ctl
    takes_value: dict[str, bool] = {}
    rest = list(words)
    while rest:
        context = click.Context(command)
        for option in command.get_params(context):
            if isinstance(option, click.Option):
                names = (*option.opts, *option.secondary_opts)
                takes_value |= dict.fromkeys(names, not (option.is_flag or option.count))
        word = rest.pop(0)
        if word in ("…", "...", "--"):
            return ""
        if word.startswith("-") and word != "-":
            name = word.split("=")[0]
            if name not in takes_value:
                return f"no option {name}"
            if takes_value[name] and "=" not in word and rest:
                rest.pop(0)
        elif isinstance(command, click.Group):
            alternatives = [command.get_command(context, name) for name in word.split("|")]
            if None in alternatives:
                return f"no command {word}"
            command = next(one for one in alternatives if one is not None)
    return ""


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("status -o json", ""),
        ("--socket x rules check - policy.yaml", ""),
        ("endpoint list|add|remove", ""),
        ("rules lint", "no command lint"),
        ("status --fast", "no option --fast"),
        ("endpoint add --netns=blue --label a=b --colour red", "no option --colour"),
    ],
)
def test_a_stale_command_would_be_noticed(command: str, problem: str) -> None:
    assert _check_l7ctl(command.split()) == problem


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_command_in_the_documents_exists(document: Path) -> None:
    makefile = ROOT / "Makefile"
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile.read_text(), re.MULTILINE)) if makefile.exists() else set()
    wrong = []
    for number, words in _commands(document):
        if words[0] == "l7ctl":
            problem = _check_l7ctl(words[1:])
        else:
            unknown = [word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word) and word not in targets]
            problem = f"no target {unknown}" if unknown else ""
        if problem:
            wrong.append(f"{document}:{number}: {problem}: {' '.join(words)}")
    assert wrong == []


def _leaves(command: click.Command, path: str = "") -> Iterator[str]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _leaves(child, f"{path} {name}".strip())
    else:
        yield path


def test_the_manual_page_has_every_command_and_no_other() -> None:
    page = (ROOT / "docs/man/l7ctl.1").read_text()
    commands = page.split(".SH COMMANDS")[1].split(".SH ")[0]
    assert sorted(re.findall(r"^\.TP\n\.B (.+)$", commands, re.MULTILINE)) == sorted(_leaves(l7ctl))


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text("utf-8"), flags=re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [target for target in targets if target and "://" not in target and not target.startswith("mailto:")]
    assert [target for target in local if not (ROOT / document.parent / target).exists()] == []


DOCUMENTATION = [
    ipaddress.ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "127.0.0.0/8")
]
SPECIAL = [ipaddress.ip_network(text) for text in ("0.0.0.0/32", "169.254.0.0/16", "255.255.255.255/32")]


@pytest.mark.parametrize(
    "path",
    [
        *DOCUMENTS,
        *(
            path.relative_to(ROOT)
            for top in ("examples", "lab", "bench")
            for path in (ROOT / top).rglob("*.[py]*")
            if path.name != "no-encrypted-dns.yaml"  # it denies public resolvers, and nothing of ours sends to them
        ),
    ],
    ids=str,
)
def test_examples_and_labs_use_documentation_addresses_only(path: Path) -> None:
    if (ROOT / path).is_dir() or path.suffix == ".pyc":
        return
    found = set(re.findall(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])", (ROOT / path).read_text("utf-8")))
    strange = [
        text
        for text in found
        if all(int(part) < 256 for part in text.split("."))
        and not any(ipaddress.ip_address(text) in network for network in (*DOCUMENTATION, *SPECIAL))
    ]
    assert strange == []
