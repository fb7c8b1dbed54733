"""Policy: a table of what is allowed, purity, and what a wrong file is told."""

import copy
import dataclasses
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hanse import vertical
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.channels.spec import RoleSpec
from hanse.core.blobs import manifest_of
from hanse.core.errors import ConfigError
from hanse.core.spec import RunSpec
from hanse.pipeline.request import JobRequest, run_spec_of
from hanse.site.join import _POLICY as TEMPLATE
from hanse.site.policy import (
    ACCEPT,
    HOLD,
    REFUSE,
    Analytics,
    Decision,
    Policy,
    RolePolicy,
    decide,
    read_policy,
)
from hanse.site.proposals import Proposal
from hanse.strategies.groups import Groups, within
from hanse.vertical.model import Model

APP, OTHER = "a" * 64, "b" * 64
OPEN = Policy(apps=None, people=None, datasets=None)


def proposal(app: str = APP, person: str = "anna", **spec: Any) -> Proposal:
    return Proposal(
        "j", "n", person, app, "j/bundle", manifest_of(b"x"), "app.py", "app", RunSpec(**spec), 0, b"", b"", b""
    )


def question(**options: Any) -> dict[str, Any]:
    asked = {"columns": ["age"], "data": "patients", **options}
    return {"strategy": "analysis", "params": {"question": "describe", "options": asked}, "initial": "none"}


# what the policy says, what the job says, the verdict, and what the reason names
TABLE: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({}, {}, ACCEPT, ""),
    ({"apps": frozenset({APP})}, {}, ACCEPT, ""),
    ({"apps": frozenset({OTHER})}, {}, REFUSE, "apps"),
    ({"apps": frozenset({OTHER}), "unlisted_apps": HOLD}, {}, HOLD, APP),
    ({"apps": frozenset(), "unlisted_apps": HOLD}, {}, HOLD, "apps"),
    ({"apps": frozenset()}, {}, REFUSE, "apps"),
    ({"people": frozenset({"anna"})}, {}, ACCEPT, ""),
    ({"people": frozenset({"bert"})}, {}, REFUSE, "people: anna"),
    ({"people": frozenset()}, {}, REFUSE, "people"),
    ({"people": frozenset(), "apps": frozenset(), "unlisted_apps": HOLD}, {}, REFUSE, "people"),
    ({"strategies": frozenset({"fedavg"})}, {}, ACCEPT, ""),
    ({"strategies": frozenset({"fedprox"})}, {}, REFUSE, "strategies: fedavg"),
    ({"strategies": frozenset({"fedavg"})}, {"strategy": "custom"}, REFUSE, "custom"),
    ({"min_cohort": 3}, {"quorum": 3}, ACCEPT, ""),
    ({"min_cohort": 3}, {"quorum": 2}, REFUSE, "min_cohort"),
    ({"min_cohort": 3}, {"quorum": None}, REFUSE, "found none"),
    ({"min_cohort": 1}, {"quorum": None}, ACCEPT, ""),
    ({"max_rounds": 5}, {"rounds": 5}, ACCEPT, ""),
    ({"max_rounds": 5}, {"rounds": 6}, REFUSE, "max_rounds"),
    ({"max_epsilon": {"patients": 1.0}}, {}, REFUSE, "patients"),
    ({"max_epsilon": {"patients": 1.0}, "datasets": frozenset({"other"})}, {}, ACCEPT, ""),
    ({"secure_aggregation": True}, {}, REFUSE, "secure_aggregation"),
    ({"min_cohort": 3, "apps": frozenset(), "unlisted_apps": HOLD}, {"quorum": 2}, REFUSE, "min_cohort"),
    # questions run without code of the app's, so they need no hash on the list
    ({"apps": frozenset(), "analytics": Analytics()}, question(), ACCEPT, ""),
    ({"apps": frozenset()}, question(), REFUSE, "analytics"),
    ({"apps": frozenset({APP})}, question(min_group=1), REFUSE, "allowed no questions"),  # the hash says nothing of it
    ({"apps": frozenset({APP}), "unlisted_apps": HOLD}, question(), HOLD, "allowed no questions"),
    ({"apps": None}, question(), ACCEPT, ""),
    ({"apps": frozenset(), "analytics": Analytics()}, {}, REFUSE, "apps"),
    ({"apps": frozenset(), "analytics": Analytics()}, {"strategy": "custom"}, REFUSE, "apps"),
    (
        {"analytics": Analytics(min_group=11)},
        question(),
        REFUSE,
        "analytics: min_group: expected at least 11, found 10",
    ),
    ({"analytics": Analytics(min_sites=2)}, question(), REFUSE, "min_sites"),
    ({"analytics": Analytics(min_sites=2)}, question(min_sites=2), ACCEPT, ""),
    ({"analytics": Analytics(questions=frozenset({"top"}))}, question(), REFUSE, "questions: describe"),
    ({"analytics": Analytics()}, question(min_group="ten"), REFUSE, "min_group"),
    ({"analytics": Analytics()}, {"strategy": "analysis", "params": {"question": "rows"}}, REFUSE, "question"),
    ({"analytics": Analytics()}, {"strategy": "analysis", "params": {}}, REFUSE, "analysis"),
    ({"analytics": Analytics(), "people": frozenset()}, question(), REFUSE, "people"),
]


@pytest.mark.parametrize(("rules", "job", "verdict", "named"), TABLE)
def test_table(rules: dict[str, Any], job: dict[str, Any], verdict: str, named: str) -> None:
    decision = decide(proposal(**job), dataclasses.replace(OPEN, **rules))
    assert decision.verdict == verdict
    assert named in decision.reason
    assert (decision.verdict == ACCEPT) == (decision.reason == "")


def test_nothing_is_allowed_without_a_policy() -> None:
    assert decide(proposal(), None) == Decision(REFUSE, decide(proposal(), None).reason)
    assert "policy.yaml" in decide(proposal(), None).reason
    assert decide(proposal(), Policy()).verdict == REFUSE


def test_only_an_edge_takes_a_job_of_groups_and_members_take_a_groups_own_run() -> None:
    """A site without a group would train as if it were one, and say nothing."""
    groups = {"groups": Groups(2).to_json(), "rounds": 2}
    of_groups, plain = proposal(**groups), proposal()
    inner = replace(of_groups, spec=within(of_groups.spec))
    for job, is_edge, verdict in (
        (of_groups, True, ACCEPT),
        (of_groups, False, REFUSE),
        (plain, True, REFUSE),
        (inner, False, ACCEPT),
        (inner, True, REFUSE),
    ):
        found = decide(job, OPEN, is_edge=is_edge)
        assert (found.verdict, "groups: expected" in found.reason) == (verdict, verdict == REFUSE)


def test_deciding_changes_nothing_and_always_says_the_same() -> None:
    for rules, job, *_ in TABLE:
        policy, asked = dataclasses.replace(OPEN, **rules), proposal(**job)
        before = copy.deepcopy((policy, asked))
        assert len({decide(asked, policy) for _ in range(3)}) == 1
        assert (policy, asked) == before


def test_a_stricter_policy_never_allows_more() -> None:
    order = {ACCEPT: 2, HOLD: 1, REFUSE: 0}
    strict: list[dict[str, Any]] = [rules for rules, *_ in TABLE if rules]
    jobs: list[dict[str, Any]] = [{}, {"quorum": 2}, {"rounds": 6}]
    for first, second in itertools.product(strict, strict):
        if set(first) & set(second):
            continue
        for job in jobs:
            one = decide(proposal(**job), dataclasses.replace(OPEN, **first))
            both = decide(proposal(**job), dataclasses.replace(OPEN, **first, **second))
            assert order[both.verdict] <= order[one.verdict] or "datasets" in second


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return path


def test_reading(tmp_path: Path) -> None:
    text = f"apps: [{APP}]\npeople: [anna]\ndatasets: any\nmin_cohort: 3\nmax_epsilon: {{patients: 2}}\n"
    text += (
        "unlisted_apps: hold\nsecure_aggregation: required\nisolation: landlock\nstrategies: [fedavg]\nmax_rounds: 7"
    )
    assert read_policy(write(tmp_path, text)) == Policy(
        frozenset({APP}),
        frozenset({"anna"}),
        HOLD,
        None,
        frozenset({"fedavg"}),
        3,
        7,
        {"patients": 2.0},
        True,
        "landlock",
    )


def test_reading_what_may_be_asked(tmp_path: Path) -> None:
    policy = read_policy(write(tmp_path, "analytics: {questions: [describe], min_group: 20, min_sites: 3}"))
    assert policy is not None
    assert policy.analytics == Analytics(frozenset({"describe"}), 20, 3)
    policy = read_policy(write(tmp_path, "people: any\nanalytics:\n"))
    assert policy is not None
    assert policy.analytics == Analytics()


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n"])
def test_an_empty_file_allows_nothing(tmp_path: Path, text: str) -> None:
    assert read_policy(write(tmp_path, text)) is None
    assert read_policy(tmp_path / "absent.yaml") is None


def test_the_template_holds_every_app_of_every_person(tmp_path: Path) -> None:
    policy = read_policy(write(tmp_path, TEMPLATE))
    assert policy is not None
    assert policy.grants("patients")
    assert decide(proposal(), policy).verdict == HOLD
    uncommented = TEMPLATE.replace("\n# ", "\n")
    demanding = read_policy(write(tmp_path, uncommented))
    assert demanding is not None
    assert (demanding.min_cohort, demanding.isolation, demanding.secure_aggregation) == (3, "landlock", True)
    assert demanding.roles == {"guest": RolePolicy(frozenset({"shop"}), frozenset({"size"}))}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("people: any\nappps: any\n", ["line 2", "appps", "unknown", "apps"]),
        ("people: anna\n", ["line 1", "people", "list of names", "anna"]),
        ("apps: [abc]\n", ["line 1", "apps", "SHA-256"]),
        ("min_cohort: true\n", ["min_cohort", "whole number"]),
        ("\nmin_cohort: 0\n", ["line 2", "min_cohort"]),
        ("unlisted_apps: maybe\n", ["hold, refuse", "maybe"]),
        ("max_epsilon: {patients: -1}\n", ["max_epsilon", "above 0"]),
        ("max_epsilon: {patients: .nan}\n", ["max_epsilon", "above 0"]),
        ("secure_aggregation: yes\n", ["required, optional"]),
        ("isolation: strong\n", ["process, landlock, user"]),
        ("analytics: {min_group: 0}\n", ["analytics.min_group", "whole number"]),
        ("analytics: any\n", ["analytics", "a mapping"]),
        ("analytics: {rows: any}\n", ["analytics.rows", "unknown", "min_sites"]),
        ("- any\n", ["key: value"]),
        ("people: any\npeople: []\n", ["line 2", "twice"]),
        ("people: [a\n", ["line", "not YAML"]),
        ("people: !!python/object/apply:os.system [true]\n", ["not YAML"]),
        ("1: any\n", ["line 1", "words as keys"]),
    ],
)
def test_a_wrong_file_says_what_is_wrong_and_where(tmp_path: Path, text: str, told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_policy(write(tmp_path, text))
    for each in ("policy.yaml", *told):
        assert each in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(b"\xff\xfe\x00people")
    with pytest.raises(ConfigError, match=r"policy\.yaml"):
        read_policy(path)


# ---- roles ----

PAIR = Protocol(
    "pair",
    ("guest", "host"),
    (Message("m", "guest", "host", "uint8", ()),),
    Guarantee("semi-honest", 1, 128, 40, ()),
    (
        Reveal("host", "guest", "size", "how many"),
        Reveal("host", "guest", "intersection", "which"),
        Reveal("guest", "host", "size", "how many"),
    ),
)


def played(protocol: Protocol = PAIR) -> Proposal:
    spec = RoleSpec({"guest": "bank", "host": "shop"}, protocol)
    request = JobRequest(
        "j", "n", "f", "anna", 0, APP, manifest_of(b"x"), "", "app.py", "app", run_spec_of(spec), roles=spec
    )
    return dataclasses.replace(proposal(), spec=run_spec_of(spec), request=request)


WILLING = RolePolicy(peers=frozenset({"shop"}), reveals=frozenset({"size", "intersection"}))
ROLE_TABLE: list[tuple[dict[str, RolePolicy], str, str]] = [
    ({"guest": WILLING}, "bank", ""),
    ({}, "bank", "roles: guest is not on"),
    ({"host": WILLING}, "bank", "roles: guest is not on"),
    ({"guest": WILLING}, "port", "no role for this site"),
    ({"guest": RolePolicy(reveals=None)}, "bank", "roles.guest.peers: shop"),
    ({"guest": RolePolicy(peers=None)}, "bank", "roles.guest.reveals: size, which host shop would learn"),
    ({"guest": dataclasses.replace(WILLING, reveals=frozenset({"size"}))}, "bank", "intersection, which host shop"),
    ({"host": RolePolicy(peers=frozenset({"bank"}), reveals=frozenset({"size"}))}, "shop", ""),
]


@pytest.mark.parametrize(("roles", "site", "named"), ROLE_TABLE)
def test_roles(roles: dict[str, RolePolicy], site: str, named: str) -> None:
    decision = decide(played(), dataclasses.replace(OPEN, roles=roles, min_cohort=3), site)
    assert decision.verdict == (REFUSE if named else ACCEPT), decision
    assert named in decision.reason


def test_a_role_s_app_is_still_to_be_listed() -> None:
    policy = dataclasses.replace(OPEN, apps=frozenset(), unlisted_apps=HOLD, roles={"guest": WILLING})
    assert decide(played(), policy, "bank").verdict == HOLD


def test_protocols_without_a_proof_want_a_word() -> None:
    unproven = dataclasses.replace(PAIR, guarantee=Guarantee("none", 0, 0, 0, ()))
    policy = dataclasses.replace(OPEN, roles={"guest": WILLING})
    assert "roles.guest.unproven: pair has no proof" in decide(played(unproven), policy, "bank").reason
    policy = dataclasses.replace(OPEN, roles={"guest": dataclasses.replace(WILLING, unproven=True)})
    assert decide(played(unproven), policy, "bank").verdict == ACCEPT


def test_a_guarantee_of_too_few_bits_is_refused() -> None:
    weak = dataclasses.replace(PAIR, guarantee=dataclasses.replace(PAIR.guarantee, statistical_bits=30))
    policy = dataclasses.replace(OPEN, roles={"guest": dataclasses.replace(WILLING, statistical_bits=31)})
    reason = decide(played(weak), policy, "bank").reason
    assert reason == "roles.guest.statistical_bits: pair keeps to 30, and the site wants 31"
    policy = dataclasses.replace(OPEN, roles={"guest": dataclasses.replace(WILLING, statistical_bits=30)})
    assert decide(played(weak), policy, "bank").verdict == ACCEPT


def test_a_numbered_role_is_the_role_unless_it_is_named() -> None:
    own, other = RolePolicy(peers=None), RolePolicy(datasets=frozenset({"few"}))
    policy = dataclasses.replace(OPEN, datasets=None, roles={"host": own, "host-2": other})
    assert [policy.role(name) for name in ("host", "host-1", "host-2")] == [own, own, other]
    assert [policy.role(name) for name in ("guest-1", "host-x", "host1", "ghost-1")] == [None] * 4
    assert policy.grants("many", "host-1")
    assert not policy.grants("many", "host-2")


def test_roles_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "datasets: [customers, prices]\n"
        "roles:\n  guest: {peers: [shop], reveals: [size], datasets: [customers]}\n"
        "  host: {peers: any, unproven: true, lends: [anna], queries: 500, statistical_bits: 40}\n"
    )
    policy = read_policy(path)
    assert policy is not None
    assert policy.roles == {
        "guest": RolePolicy(frozenset({"shop"}), frozenset({"size"}), frozenset({"customers"})),
        "host": RolePolicy(peers=None, unproven=True, lends=frozenset({"anna"}), queries=500, statistical_bits=40),
    }
    assert [policy.grants(name, "guest") for name in ("customers", "prices", "others")] == [True, False, False]
    assert [policy.grants(name, "host") for name in ("customers", "prices", "others")] == [True, True, False]
    path.write_text("roles: {guest: {peer: [shop]}}")
    with pytest.raises(ConfigError, match=r"roles\.guest\.peer"):
        read_policy(path)
    path.write_text("roles: [guest]")
    with pytest.raises(ConfigError, match="roles"):
        read_policy(path)


@pytest.mark.parametrize("model", [vertical.Boosting(), vertical.SplitNetwork()], ids=["trees", "split"])
def test_a_host_is_asked_about_the_guest_s_metrics_since_its_columns_go_into_them(model: Model) -> None:
    protocol = model.whole(["host"])
    words = {each.what for each in protocol.reveals if each.about == "host"}
    willing = RolePolicy(peers=frozenset({"bank"}), reveals=frozenset(words), unproven=True)
    assert decide(played(protocol), dataclasses.replace(OPEN, roles={"host": willing}), "shop").verdict == ACCEPT
    without = dataclasses.replace(willing, reveals=frozenset(words - {"guest_metrics"}))
    refused = decide(played(protocol), dataclasses.replace(OPEN, roles={"host": without}), "shop")
    assert "guest_metrics, which the server, and who submits, would learn" in refused.reason
    (told,) = (each.detail for each in protocol.reveals if each.what == "guest_metrics")
    assert all(name in told for name in model.measures())
