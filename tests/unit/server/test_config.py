"""`server.yaml`: what is written is read, and every mistake is named."""

from pathlib import Path

import pytest

from hanse.core.errors import ConfigError
from hanse.server.config import ServerConfig
from hanse.tracking import MLflow
from hanse.trust.aws_identity import AwsIdentity


@pytest.mark.parametrize(
    "config",
    [
        ServerConfig("f"),
        ServerConfig("f", "0.0.0.0", 0, 1, None, ("a.example", "10.0.0.1"), "process", 8, results="everyone"),
        ServerConfig("123"),
        ServerConfig("f", listen="::1", hosts=("::1",)),
        ServerConfig("no"),
        ServerConfig("f", hosts=("1e5", "yes")),
        ServerConfig(
            "f",
            models_to_sites=True,
            datasets={"test": {"kind": "csv", "path": "test.csv", "target": "y"}},
            tracking=MLflow("http://127.0.0.1:5000", prefix="f", params={"a": 1}),
            aws_identities={"north": AwsIdentity("111111111111", "FL-execution")},
            aws_sts="https://sts.internal:443/",
        ),
    ],
)
def test_what_is_written_is_read(tmp_path: Path, config: ServerConfig) -> None:
    config.save(tmp_path)
    assert ServerConfig.load(tmp_path) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "keys and values"),
        ("- a\n", "keys and values"),
        ("federation: [\n", "expected YAML"),
        ("federation: f\n\tport: 1\n", "expected YAML"),
        ("federation: !!python/object/apply:os.system [ls]\n", "expected YAML"),
        ("port: 1\n", "federation: NAME"),
        ("federation: F\n", "federation"),
        ("federation: 7\n", "federation"),
        ("federation:\n", "federation"),
        ("federation: f\nprot: 1\n", "'prot'"),
        ("federation: f\n7: 1\n", "7"),
        ("federation: f\nport: many\n", "port: expected a port"),
        ("federation: f\nport: true\n", "port: expected a port"),
        ("federation: f\nport: 65536\n", "port: expected a port"),
        ("federation: f\nport: -1\n", "port: expected a port"),
        ("federation: f\nenrolment_port: null\n", "enrolment_port: expected a port"),
        ("federation: f\nhttp_port: x\n", "port or null"),
        ("federation: f\nlisten: 7\n", "an address"),
        ("federation: f\nhosts: localhost\n", "a list of names"),
        ("federation: f\nhosts: []\n", "a list of names"),
        ("federation: f\nhosts: [7]\n", "a list of names"),
        ("federation: f\ndurability: maybe\n", "power or process"),
        ("federation: f\ndurability: [power]\n", "power or process"),
        ("federation: f\nthreads: 0\n", "whole number"),
        ("federation: f\nresults: nobody\n", "owner or everyone"),
        ("federation: f\nthreads: 1.5\n", "whole number"),
        ("federation: f\ndatasets: {test: {kind: sql}}\n", "data set test: kind: expected one of"),
        ("federation: f\ndatasets: {test: 3}\n", "datasets: expected declarations"),
        ("federation: f\ntracking: {kind: wandb}\n", "tracking: kind: expected one of file, mlflow"),
        ("federation: f\ntracking: 3\n", "tracking: expected a mapping"),
        ("federation: f\naws_identities: {n: {account: 1, role: x}}\n", "aws_identities: n: aws identity: expected"),
        ("federation: f\naws_identities: [n]\n", "aws_identities: expected sites"),
        ("federation: f\nmodels_to_sites: 1\n", "models_to_sites: expected true or false"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "server.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        ServerConfig.load(tmp_path)
    assert "server.yaml" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hanse federation init"):
        ServerConfig.load(tmp_path)
    (tmp_path / "server.yaml").mkdir()
    with pytest.raises(ConfigError):
        ServerConfig.load(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "server.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError):
        ServerConfig.load(tmp_path)
