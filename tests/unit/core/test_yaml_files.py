"""Whatever is wrong with a file that a person wrote is said in a line."""

from pathlib import Path

import pytest

from hanse.core.errors import ConfigError
from hanse.core.yaml_files import parse_yaml, read_yaml


def test_what_a_file_says(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("city: Lübeck\n", encoding="utf-8")
    assert read_yaml(path) == {"city": "Lübeck"}
    path.write_text("# nothing\n")
    assert read_yaml(path) is None


def test_a_file_that_is_not_there_comes_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml: not found; make one$"):
        read_yaml(tmp_path / "a.yaml", "make one")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"not found$"):
        read_yaml(tmp_path / "file" / "a.yaml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "expected a text file that can be read"),
        (b"a: 1\nb: [\n", r"a\.yaml:3: expected YAML, found something else"),
        (b"!!python/object/apply:os.system [ls]", r"a\.yaml:1: expected YAML"),
        (b"a: 2026-99-99", "a value that cannot be read"),
        (b"a: " + b"[" * 5000, "expected YAML"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as found:
        read_yaml(path)
    assert "\n" not in str(found.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a text file"):
        read_yaml(tmp_path)


def test_a_text_says_where_it_is_from() -> None:
    with pytest.raises(ConfigError, match=r"^federation\.yaml:1: expected YAML"):
        parse_yaml("}", "federation.yaml")
