"""The documents say what is: snippets run, links lead somewhere, commands, options, keys and names are the code's.

What is prose cannot be checked here; what is a name, a table or a snippet is.
"""

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest

import hanse as hs
from hanse.analytics.catalogue import QUESTIONS
from hanse.backends.grpc import protocol
from hanse.cli.commands import COMMANDS, GROUPS, Command
from hanse.cli.main import describe
from hanse.clients.app import App
from hanse.core.proto import hanse_pb2 as pb
from hanse.person import federation
from hanse.rounds import events
from hanse.server import config as server_config
from hanse.server.calls import METHODS
from hanse.server.metrics import Metrics
from hanse.site import config as site_config
from hanse.site import policy
from hanse.strategies.catalogue import CUSTOM, catalogue
from hanse.workers import datasets

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fences(text: str) -> Iterator[tuple[str, str, int]]:
    """Language and marks, content, line."""
    for match in _FENCE.finditer(text):
        yield match[1].strip(), match[2], text[: match.start()].count("\n") + 1


def rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the tables below a heading, without their own heads."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no heading {heading!r}"
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for place, row in enumerate(cells) if not (_is_rule(row) or _is_rule(cells[place + 1 : place + 2]))]


def _is_rule(row: Any) -> bool:
    cells = row[0] if row and isinstance(row[0], list) else row
    return bool(cells) and all(re.fullmatch(r":?-+:?", cell) for cell in cells)


def codes(cell: str) -> list[str]:
    return _CODE.findall(cell)


def keys(text: str, heading: str) -> set[str]:
    return {key for row in rows(text, heading) for key in codes(row[0])}


# ---- snippets ----


def snippets(mark: str) -> list[Any]:
    found = []
    for name in NAMES:
        for info, content, line in fences(text_of(name)):
            if info == mark:
                found.append(pytest.param(content, id=f"{name}:{line}"))
    return found


@pytest.mark.parametrize("content", snippets("python runnable"))
def test_snippet_runs(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="snippets use scikit-learn")
    monkeypatch.chdir(tmp_path)
    exec(compile(content, "snippet", "exec"), {"__name__": "snippet"})


@pytest.mark.parametrize("content", [*snippets("python"), *snippets("python runnable")])
def test_python_parses_and_names_what_there_is(content: str) -> None:
    compile(content, "snippet", "exec")
    for name in re.findall(r"\bhs\.([A-Za-z]\w*)", content):
        assert hasattr(hs, name), f"hs.{name}"


def test_snippets_are_found() -> None:
    assert len(snippets("python runnable")) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_names_in_prose_exist(name: str) -> None:
    for code in _CODE.findall(_FENCE.sub("", text_of(name))):
        for found in re.findall(r"\bhs\.([A-Za-z]\w*)", code):
            assert hasattr(hs, found), f"hs.{found}"
        for path in re.findall(r"^(hanse(?:\.\w+)+)$", code):
            module, _, attribute = path.rpartition(".")
            if path.split(".")[1] in ("v1",):
                continue
            try:
                import_module(path)
            except ModuleNotFoundError:
                assert hasattr(import_module(module), attribute), path


def test_every_strategy_stands_on_its_page_with_its_parameters_and_paper() -> None:
    page = text_of("docs/how-to/choose-a-strategy.md")
    for name, kind in catalogue().items():
        if name in ("query", "analysis"):  # questions, which have a page of their own
            continue
        row, *_ = re.findall(rf"^\| `hs\.{kind.__name__}` \|.*$", page, re.MULTILINE)
        parameters: Any = dataclasses.fields(kind)  # type: ignore[arg-type]  # all of them are dataclasses
        assert {field.name for field in parameters} <= set(codes(row)), name
        assert name == "xgboost" or "](https://arxiv.org/abs/" in row, name


# ---- links ----


@pytest.mark.parametrize("name", NAMES)
def test_links_resolve(name: str) -> None:
    for link in _LINK.findall(_FENCE.sub("", text_of(name))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: no such heading"


def anchors(page: Path) -> set[str]:
    """As GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_page_is_linked() -> None:
    linked = {
        ((ROOT / name).parent / link.partition("#")[0]).resolve()
        for name in NAMES
        for link in _LINK.findall(text_of(name))
        if not re.match(r"[a-z]+:", link)
    }
    roots = {ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")}
    assert {str(page) for page in PAGES} - {str(page) for page in linked | roots} == set()


def test_decisions_are_listed_with_their_date() -> None:
    listed = {cell for row in rows(text_of("docs/decisions/README.md"), "Decisions") for cell in _LINK.findall(row[1])}
    pages = {page.name for page in (ROOT / "docs/decisions").glob("2*.md")}
    assert listed == pages
    for page in pages:
        assert f"\n{page[:10]}\n" in text_of(f"docs/decisions/{page}")


# ---- the command line ----


@cache
def options(command: Command) -> frozenset[str]:
    """Options of a command, as typer makes them."""
    import typer

    module, _, function = command.function.partition(":")
    app = typer.Typer(add_completion=False)
    app.command()(getattr(import_module(f"hanse.cli.{module}"), function))
    found = typer.main.get_command(app).params
    return frozenset(name for each in found for name in (*each.opts, *each.secondary_opts) if name.startswith("-"))


def by_words() -> dict[str, Command]:
    return {command.words: command for command in COMMANDS}


def commands_in(text: str) -> Iterator[tuple[str, str]]:
    """`hanse …` in code: its words, and the rest of the line."""
    lines = [line for _, content, _ in fences(text) for line in content.splitlines()]
    for line in [*lines, *_CODE.findall(_FENCE.sub("", text))]:
        for match in re.finditer(r"(?:^\s*(?:\$ |→ )?|   or   )hanse ([a-z].*)$", line):
            words = match[1].partition("   ")[0].partition(" #")[0].split()
            known = by_words()
            name = " ".join(words[:2]) if words[0] in GROUPS else words[0]
            name = " ".join(words[:3]) if " ".join(words[:3]) in known else name
            if words[0] in GROUPS and any("|" in word for word in words[1:3]):
                continue
            yield (name if name in known or len(words) > 1 else words[0]), " ".join(words)


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_their_options_exist(name: str) -> None:
    known = by_words()
    for words, line in commands_in(text_of(name)):
        assert words in known or any(each.startswith(f"{words} ") for each in known), f"hanse {line}"
        if words in known:
            used = set(re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", line)) - {"--help"}
            assert used <= options(known[words]), f"hanse {line}"


def test_command_line_reference_is_complete() -> None:
    table = rows(text_of("docs/reference/cli.md"), "Command line")
    documented = {codes(row[0])[0].removeprefix("hanse "): set(codes(row[3])) for row in table}
    actual = {command.words: {each for each in options(command) if each.startswith("--")} for command in COMMANDS}
    assert documented == actual


def test_exit_codes_are_those_of_errors() -> None:
    documented = {int(row[0]) for row in rows(text_of("docs/reference/operations.md"), "Exit codes")}
    from hanse.cli.main import INTERRUPTED
    from hanse.core import errors
    from hanse.site.start import REJOIN_EXIT

    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.HanseError)]
    assert documented == {0, INTERRUPTED, REJOIN_EXIT, *(kind.exit_code for kind in kinds)}
    assert describe(errors.ConfigError("x"))[1] == 2


# ---- configuration ----


def test_server_keys() -> None:
    text = text_of("docs/reference/configuration.md")
    assert keys(text, "server.yaml") == set(server_config._KINDS)
    made = server_config.ServerConfig("f")
    defaults = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    for row in rows(text, "server.yaml"):
        (key,), default = codes(row[0]), row[1]
        if default == "none":
            assert not defaults[key], key
        elif default != "required":
            shown = codes(default)[0].strip("[]")
            value = defaults[key]
            text = str(value).lower() if isinstance(value, bool) else str(value)
            assert shown == (", ".join(value) if isinstance(value, tuple) else text), key


def test_site_keys() -> None:
    text = text_of("docs/reference/configuration.md")
    expected = {*site_config._KEYS} - {"workers"}
    expected |= {f"workers.{key}" for key in site_config._WORKERS}
    expected |= {f"isolation.{key}" for key in site_config._ISOLATION}
    expected |= {f"aws.{key}" for key in site_config._AWS}
    assert keys(text, "site.yaml") == expected


def test_dataset_keys() -> None:
    found = {}
    for row in rows(text_of("docs/reference/configuration.md"), "Data sets"):
        (kind,) = codes(row[0])
        cells = re.findall(r"`(\w+)`(\??)", row[1])
        found[kind] = ({name for name, mark in cells if not mark}, {name for name, mark in cells if mark})
    assert found == datasets._FIELDS


def test_policy_keys() -> None:
    text = text_of("docs/reference/configuration.md")
    assert keys(text, "policy.yaml") == set(policy._KEYS)
    (row,) = [row for row in rows(text, "policy.yaml") if codes(row[0]) == ["strategies"]]
    assert set(codes(row[2])) == {*catalogue(), CUSTOM, "any"} | ({CUSTOM} & set(codes(row[2])))


def test_strategies_and_their_parameters() -> None:
    documented = {}
    for row in rows(text_of("docs/how-to/choose-a-strategy.md"), "Strategies"):
        (name,), parameters = codes(row[0]), codes(re.sub(r"\(.*?\)", "", row[1]))
        documented[getattr(hs, name.removeprefix("hs.")).name] = set(parameters)
    actual = {name: {f.name for f in dataclasses.fields(kind)} for name, kind in catalogue().items()}
    assert documented == {name: fields for name, fields in actual.items() if name not in ("query", "analysis")}


def test_questions_are_those_there_are() -> None:
    table = rows(text_of("docs/how-to/analytics.md"), "Ask")
    documented = {codes(row[0])[0].partition("(")[0].removeprefix("hs.analytics.") for row in table}
    assert documented == {kind.__name__ for kind in QUESTIONS.values()}
    policy_row = next(
        row for row in rows(text_of("docs/reference/configuration.md"), "policy.yaml") if "`analytics`" in row[0]
    )
    assert set(QUESTIONS) <= set(codes(policy_row[2]))


def test_federation_keys() -> None:
    assert keys(text_of("docs/reference/configuration.md"), "federation.yaml") == set(federation.KEYS)


def test_yaml_of_the_documents_is_read_as_it_stands(tmp_path: Path) -> None:
    seen = 0
    for name in ("docs/how-to/site-owner.md", "docs/tutorial.md"):
        for info, content, _ in fences(text_of(name)):
            if info != "yaml":
                continue
            path = tmp_path / "x.yaml"
            path.write_text(content)
            if "datasets:\n" in content:
                for dataset, declaration in site_config.read_config(path).datasets.items():
                    datasets.check_declaration(dataset, declaration)
            else:
                policy.read_policy(path)
            seen += 1
    assert seen >= 4


# ---- other names ----


def test_metrics() -> None:
    table = rows(text_of("docs/reference/operations.md"), "Metrics")
    documented = {codes(row[0])[0].removesuffix("_total"): row[1] for row in table}
    actual = {metric.name: metric.type for metric in Metrics().registry.collect()}
    assert documented == actual


def test_events_and_instructions() -> None:
    table = rows(text_of("docs/explanation/round-machine.md"), "Events and instructions")
    documented = {code for row in table for code in codes(row[0])}
    union = (*get_args(events.Event), *get_args(events.Instruction))
    assert documented == {kind.__name__ for kind in union}


def test_the_house_has_the_floors_of_the_import_contract() -> None:
    contract = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    floors = [set(re.findall(r"\w+", layer)) for layer in contract["layers"]]
    house = rows(text_of("docs/explanation/design.md"), "The house")
    assert [set(_CODE.findall(row[1])) for row in house if row[0].isdecimal()] == floors


def test_the_parts_of_a_folder_are_files() -> None:
    house = rows(text_of("docs/explanation/design.md"), "The house")
    parts = {row[0].strip("`"): _CODE.findall(row[1]) for row in house if len(row) == 2}
    assert len(parts) > 3
    for folder, names in parts.items():
        there = {path.stem for path in (ROOT / "src" / "hanse" / folder).iterdir()} | {"Gather"}
        assert set(names) <= there, folder
    driver = rows(text_of("docs/explanation/round-machine.md"), "The driver's parts")
    files = {name for row in driver for name in _CODE.findall(" ".join(row[:2]))}
    assert files == {path.name for path in (ROOT / "src/hanse/rounds/driver").glob("*.py")} - {"__init__.py"}


def test_stages_of_the_diagram_are_the_machine_s() -> None:
    from hanse.rounds.machine import resuming

    page = text_of("docs/explanation/round-machine.md")
    diagram = next(content for info, content, _ in fences(page) if info == "mermaid")
    drawn = set(re.findall(r"(\w+) -->", diagram)) | set(re.findall(r"--> (\w+)", diagram))
    stages = {*re.findall(r'case "(\w+)"', Path(resuming.__file__).read_text()), "over"}
    assert drawn == stages


def test_settings_of_an_app() -> None:
    import inspect

    documented = {code for row in rows(text_of("docs/how-to/write-an-app.md"), "Settings") for code in codes(row[0])}
    actual = set(inspect.signature(App.__init__).parameters) - {"self"}
    assert documented == actual


def test_services_and_questions() -> None:
    text = text_of("docs/wire-protocol.md")
    services = {codes(row[0])[0] for row in rows(text, "Services")}
    assert {each.split("/")[1] for each in services} == {protocol.SERVICE, protocol.ENROLMENT}
    assert {code for row in rows(text, "People") for code in codes(row[0])} == set(METHODS)
    for row in rows(text, "Status codes"):
        if row[1] and codes(row[1]):
            from hanse.core import errors

            for name in codes(row[1]):
                if name != "RefusedError":
                    assert protocol.status_of(getattr(errors, name)("x")).name == codes(row[0])[0]
    for field in ("holding", "facts", "deadline_s", "person_record"):
        assert field in text
    assert {f.name for f in pb.Hello.DESCRIPTOR.fields} == {"v", "software", "holding", "facts"}


def test_benchmarks_are_those_there_are() -> None:
    text = text_of("docs/benchmarks.md")
    documented = {codes(row[0])[0] for row in rows(text, "Benchmarks")}
    modules = {path.stem.replace("_", "-") for path in (ROOT / "benchmarks").glob("[a-z]*.py")} - {"harness"}
    assert documented == modules


def test_nothing_of_a_machine_is_in_the_documents() -> None:
    for name in NAMES:
        assert not re.search(r"/(?:root|work|tmp)/\w", text_of(name)), name
        assert json.dumps(text_of(name)).count("\\t") == 0, name
