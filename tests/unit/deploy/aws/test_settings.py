"""`federation.yaml`: what it may say, and one line for what it may not."""

from pathlib import Path
from typing import Any

import pytest

from hanse.core.errors import ConfigError
from hanse.deploy.aws.settings import SitePlan, load, read, written

AWS: dict[str, Any] = {"region": "eu-central-1", "sites": ["luebeck"]}


def test_sites_are_names_or_say_more() -> None:
    sites = [
        "luebeck",
        {"name": "bergen", "account": "111122223333"},
        {"name": "riga", "access": "certificate"},
        {"name": "turku", "principal": "arn:aws:iam::444455556666:user/agents/turku"},
    ]
    assert read({"federation": "north", "aws": AWS | {"sites": sites}}).sites == (
        SitePlan("luebeck"),
        SitePlan("bergen", account="111122223333"),
        SitePlan("riga", "certificate"),
        SitePlan("turku", account="444455556666", principal="arn:aws:iam::444455556666:user/agents/turku"),
    )


def test_the_first_file_reads_as_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "federation.yaml").write_text(written("north", "eu-central-1", ["luebeck", "007"]))
    found = load(tmp_path)
    assert (found.federation, found.region) == ("north", "eu-central-1")
    assert [site.name for site in found.sites] == ["luebeck", "007"]
    # The commented lines are right as well.
    text = (tmp_path / "federation.yaml").read_text().replace("    # -", "    -").replace("  # alarms", "  alarms")
    (tmp_path / "federation.yaml").write_text(text.replace("  # keep_days", "  keep_days"))
    assert [site.name for site in load(tmp_path).sites] == ["luebeck", "007", "bergen", "riga"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"region": "europe"}, "region: expected a region such as eu-central-1, found 'europe'"),
        ({"region": 3}, "region: expected a region"),
        ({"sites": "luebeck"}, "sites: expected a list of names"),
        ({"sites": []}, "sites: expected 1 to 50, found 0"),
        ({"sites": [f"s{n}" for n in range(51)]}, "sites: expected 1 to 50, found 51"),
        ({"sites": ["luebeck", "luebeck"]}, "expected every name once"),
        ({"sites": ["server"]}, "none of server, stream, *-dead; found server"),
        ({"sites": ["luebeck-dead"]}, "found luebeck-dead"),
        ({"sites": ["Lübeck"]}, "expected 1 to 63 characters of a-z"),
        ({"sites": ["s" * 50]}, "at most 64 characters"),
        ({"sites": [{"name": "a", "account": "1"}]}, "account: twelve digits in quotes"),
        ({"sites": [{"name": "a", "account": 111122223333, "access": "certificate"}]}, "sites: expected"),
        ({"sites": [{"name": "a", "role": "x"}]}, "sites: expected"),
        ({"sites": [{"name": "a", "principal": "arn:aws:iam::*:root"}]}, "principal: an ARN"),
        ({"sites": [{"name": "a", "account": "1" * 12, "principal": "arn:aws:iam::222222222222:role/x"}]}, "principal"),
        ({"keep_days": 0}, "keep_days: expected 1 to 3650, found 0"),
        ({"keep_days": True}, "keep_days: expected"),
        ({"log_days": 8}, "log_days: expected one of 1, 3, 5, 7"),
        ({"python": 3.13}, "python: expected one of 3.12, 3.13, in quotes, found 3.13"),
        ({"python": "3.11"}, "python: expected"),
        ({"architecture": "sparc"}, "architecture: expected arm64 or x86_64"),
        ({"topic": 1}, "topic: expected true or false"),
        ({"alarms": "me"}, "alarms: expected an e-mail address"),
        ({"vpc": {"id": "vpc-1"}}, "vpc: expected id, cidr, subnets, route_tables"),
        ({"vpc": {"id": "v", "cidr": "c", "subnets": "subnet-1", "route_tables": ["r"]}}, "the last two as lists"),
        ({"tags": {"aws:x": "y"}}, "tags: expected names and values"),
        ({"nodes": 3}, "'nodes' is not a setting; known are region, sites"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_one_line(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read({"federation": "north", "aws": AWS | change}, "f.yaml")
    assert expected in str(caught.value)
    assert str(caught.value).startswith("f.yaml: aws: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("federation: north\naddress: x:7400\n", "expected keys `federation` and `aws`"),
        ("aws: {region: eu-central-1, sites: [a]}\n", "federation: expected a name, found None"),
        ("federation: north\naws: {region: eu-central-1}\n", "expected a line 'sites: …'"),
        ("a: [\n", "x.yaml:2: expected YAML"),
        ("- 1\n", "expected keys"),
    ],
)
def test_a_file_that_is_something_else(content: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"x\.yaml") as caught:
        load(path)
    assert expected in str(caught.value)


def test_no_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hanse deploy aws init"):
        load(tmp_path / "federation.yaml")


def test_the_documents_name_every_setting() -> None:
    from hanse.deploy.aws.settings import KEYS

    page = (Path(__file__).resolve().parents[4] / "docs/aws.md").read_text()
    assert [key for key in KEYS if f"`{key}`" not in page] == []
