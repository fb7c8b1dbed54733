"""site.yaml: what it says, and what a wrong one is told."""

from pathlib import Path

import pytest

from hanse.core.errors import ConfigError
from hanse.site.config import SiteConfig, read_config
from hanse.site.join import _SITE as TEMPLATE


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return path


def test_reading(tmp_path: Path) -> None:
    config = read_config(
        write(
            tmp_path,
            "name: a\nserver: host:7\ndurability: process\nisolation: {level: landlock, read: [/opt], network: true}\n"
            "workers: {limit: 2, preload: [sklearn], memory_mb: 100, environment: {A: b}}\nshare_dataset_names: true\n"
            "datasets:\n  patients: {kind: csv, path: p.csv}\n",
        )
    )
    assert (config.name, config.server, config.durability, config.max_workers) == ("a", "host:7", "process", 2)
    assert (config.isolation.level, config.isolation.read, config.isolation.network) == ("landlock", ("/opt",), True)
    assert (config.preload, config.memory_bytes, config.environment) == (("sklearn",), 100 << 20, {"A": "b"})
    assert config.datasets == {"patients": {"kind": "csv", "path": "p.csv"}}
    assert config.share_dataset_names


def test_nothing_said_is_the_default(tmp_path: Path) -> None:
    assert read_config(tmp_path / "absent.yaml") == SiteConfig()
    assert read_config(write(tmp_path, "datasets:\n")) == SiteConfig()


def test_the_template_can_be_read_with_every_line_uncommented(tmp_path: Path) -> None:
    text = TEMPLATE.format(name="a", address="host:1")
    assert read_config(write(tmp_path, text)) == SiteConfig(name="a")
    lines = [
        line.removeprefix("# ") for line in text.splitlines() if "This machine" not in line and "What is" not in line
    ]
    kept = [line for line in lines if not line.startswith(("datasets: {}", "Apps say"))]
    config = read_config(write(tmp_path, "\n".join(kept).replace("host:port", "host:2")))
    assert config.max_workers == 4
    assert config.datasets["patients"]["target"] == "sick"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nmae: a\n", ["line 1", "nmae", "unknown"]),
        ("workers:\n  limits: 3\n", ["line 2", "workers.limits", "unknown"]),
        ("workers:\n  limit: 0\n", ["line 2", "workers.limit", "whole number"]),
        ("workers: 4\n", ["line 1", "mapping"]),
        ("isolation: none\n", ["process, landlock, user"]),
        ("isolation: {level: user, uid: 0}\n", ["isolation.uid"]),
        ("durability: full\n", ["power, process"]),
        ("datasets:\n  patients: p.csv\n", ["line 2", "datasets.patients", "declaration"]),
        ("datasets:\n  'Pat ients': {kind: csv, path: p.csv}\n", ["line 2", "name of a-z"]),
        ("server: ''\n", ["server", "text"]),
        ("workers: {environment: {A: 1}}\n", ["workers.environment"]),
    ],
)
def test_a_wrong_file_says_what_is_wrong_and_where(tmp_path: Path, text: str, told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(write(tmp_path, text))
    for each in ("site.yaml", *told):
        assert each in str(caught.value)
