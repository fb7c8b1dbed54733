"""The data owner's policy: what may run here. Read from `policy.yaml`; asked by `decide`, a pure function.

Deny by default: without a file, nothing is allowed; a key that is not there allows nothing (`apps`, `people`,
`datasets`) or demands nothing (the limits). It judges what a job says about itself and who signed it; that the app's
code does what it says is the owner's own judgement, made before listing its hash.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse.channels.spec import RoleSpec
from hanse.core.errors import ConfigError
from hanse.core.spec import RunSpec
from hanse.site.documents import Section, read_document
from hanse.site.proposals import Proposal
from hanse.strategies import named
from hanse.strategies.analysis import Analysis
from hanse.strategies.groups import is_within
from hanse.workers.isolation import LEVELS

FILE = "policy.yaml"
ACCEPT, HOLD, REFUSE = "accept", "hold", "refuse"

Allowed = frozenset[str] | None
"""Names that are allowed; None for any."""

_KEYS = (
    "apps",
    "people",
    "unlisted_apps",
    "datasets",
    "roles",
    "strategies",
    "min_cohort",
    "max_rounds",
    "max_epsilon",
    "secure_aggregation",
    "isolation",
    "analytics",
)
_ROLE_KEYS = ("peers", "reveals", "datasets", "unproven", "lends", "queries", "statistical_bits")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Analytics:
    """Questions of `hs.analytics` that run here without anybody's code: the site asks its own software.

    Args:
        questions: by kind, such as `describe`.
        min_group: the least `min_group` of a question.
        min_sites: the least `min_sites` of a question.
    """

    questions: Allowed = None
    min_group: int = 10
    min_sites: int = 1

    def objection(self, spec: RunSpec) -> str:
        """Why the question of this run may not be asked; empty if it may."""
        try:
            asked = named(spec.strategy, spec.params)
        except ConfigError as error:
            return str(error)
        if not isinstance(asked, Analysis):
            return f"expected a question, found the strategy {spec.strategy}"
        question = asked.asked
        if not _allows(self.questions, question.kind):
            return f"questions: {question.kind} is not on the site's list"
        for name in ("min_group", "min_sites"):
            least, found = getattr(self, name), getattr(question, name)
            if found < least:
                return f"{name}: expected at least {least}, found {found}"
        return ""


@dataclass(frozen=True, slots=True)
class RolePolicy:
    """What the owner allows this site in one role.

    Attributes:
        peers: sites that may play the other roles.
        reveals: what others may learn about this role's input, by the words of a protocol's Reveals.
        datasets: which of the granted data sets the role may load; None for all of them.
        unproven: whether protocols may be played that have no proof.
        lends: people whose jobs' outputs later jobs of others may use, too; their own they always may.
        queries: how many of them each other site may ask in all, of protocols that count; None for no limit of the
            owner's.
        statistical_bits: the least that a protocol's guarantee must have.
    """

    peers: Allowed = frozenset()
    reveals: Allowed = frozenset()
    datasets: Allowed = None
    unproven: bool = False
    lends: Allowed = frozenset()
    queries: int | None = None
    statistical_bits: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """What the owner wrote.

    Args:
        apps: SHA-256 of the bundles that may run.
        unlisted_apps: what becomes of the others: `hold` until the owner approves, or `refuse`.
        people: whose jobs may run.
        datasets: which of the declared data sets jobs may load.
        roles: what this site may play, in jobs in which sites play roles; `host` stands for `host-1`, `host-2`, …, too.
        strategies: by name; `custom` is an app's own.
        min_cohort: the least number of sites whose updates a job must combine.
        max_epsilon: by data set: the largest privacy loss that a job may cause.
        secure_aggregation: whether the server must not see single updates.
        isolation: the least isolation of workers.
        analytics: which questions may be asked without an app's hash on the list; None for none.
    """

    apps: Allowed = frozenset()
    people: Allowed = frozenset()
    unlisted_apps: str = REFUSE
    datasets: Allowed = frozenset()
    strategies: Allowed = None
    min_cohort: int = 1
    max_rounds: int | None = None
    max_epsilon: Mapping[str, float] = field(default_factory=dict)
    secure_aggregation: bool = False
    isolation: str = "process"
    analytics: Analytics | None = None
    roles: Mapping[str, RolePolicy] = field(default_factory=dict)

    def grants(self, dataset: str, role: str | None = None) -> bool:
        """Whether jobs may load this data set; in a role, if they play one."""
        if role is not None and not _allows((self.role(role) or RolePolicy()).datasets, dataset):
            return False
        return _allows(self.datasets, dataset)

    def role(self, name: str) -> RolePolicy | None:
        """What is allowed in a role: of `host-2` what is written for it, or else for `host`."""
        stem, _, number = name.rpartition("-")
        return self.roles.get(name, self.roles.get(stem) if number.isdigit() else None)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy says to a proposal, and why."""

    verdict: str
    reason: str = ""


def read_policy(path: Path) -> Policy | None:
    """Read a policy; None where the file is absent or says nothing, which allows nothing.

    Raises:
        ConfigError: an unknown key, a wrong type or value, by file and line.
    """
    document = read_document(path, _KEYS)
    if document is None:
        return None
    rounds = document.whole("max_rounds", None, 1, 1_000_000)
    cohort = document.whole("min_cohort", 1, 1, 1_000_000)
    return Policy(
        apps=_allowed(document, "apps", frozenset(), _SHA256),
        people=_allowed(document, "people", frozenset()),
        unlisted_apps=document.word("unlisted_apps", REFUSE, (HOLD, REFUSE)),
        datasets=_allowed(document, "datasets", frozenset()),
        roles=_roles(document),
        strategies=_allowed(document, "strategies", None),
        min_cohort=cohort or 1,
        max_rounds=rounds,
        max_epsilon=document.numbers("max_epsilon"),
        secure_aggregation=document.word("secure_aggregation", "optional", ("required", "optional")) == "required",
        isolation=document.word("isolation", "process", LEVELS),
        analytics=_analytics(document) if "analytics" in document.values else None,
    )


def decide(proposal: Proposal, policy: Policy | None, site: str = "", *, is_edge: bool = False) -> Decision:
    """Whether this job may run here. Pure: the same answer whenever it is asked again.

    Only an app that is not listed can be held; whatever the owner has ruled out is refused without asking again.

    Args:
        proposal: its person and bundle signature must have been verified.
        policy: None for an owner who has written none.
        site: this site's name; a job in which sites play roles says what it plays.
        is_edge: whether a group of sites stands behind this one.
    """
    asks_groups = proposal.spec.groups is not None and not is_within(proposal.spec)
    if asks_groups != is_edge:
        expected, found = (
            ("a job of groups", "none of groups") if is_edge else ("an edge with a group behind it", "none")
        )
        return Decision(REFUSE, f"groups: expected {expected}, found {found} (hs.App(groups=...), `hanse edge start`)")
    if policy is None:
        return Decision(REFUSE, f"the site's owner has allowed nothing yet: {FILE} is missing or empty")
    spec = proposal.spec
    if not _allows(policy.people, proposal.person):
        return Decision(REFUSE, f"people: {proposal.person} is not on the site's list")
    if not _allows(policy.strategies, spec.strategy):
        return Decision(REFUSE, f"strategies: {spec.strategy} is not on the site's list")
    if proposal.roles is not None:
        objection = _objection(proposal.roles, policy, site)
        if objection:
            return Decision(REFUSE, objection)
    elif policy.min_cohort > 1 and (spec.quorum or 0) < policy.min_cohort:
        found = "none" if spec.quorum is None else str(spec.quorum)
        return Decision(REFUSE, f"min_cohort: expected a quorum of at least {policy.min_cohort}, found {found}")
    if policy.max_rounds is not None and spec.rounds > policy.max_rounds:
        return Decision(REFUSE, f"max_rounds: expected at most {policy.max_rounds} rounds, found {spec.rounds}")
    bounded = [name for name in policy.max_epsilon if policy.grants(name)]
    if bounded:
        return Decision(REFUSE, f"max_epsilon: expected a bound for {', '.join(sorted(bounded))}, the job states none")
    if policy.secure_aggregation:
        return Decision(REFUSE, "secure_aggregation: the site requires it, and the job does not offer it")
    if proposal.roles is None and spec.strategy == Analysis.name:
        # What a question asks is in the job and not in the app, so a listed hash says nothing of it.
        if policy.analytics is not None:
            objection = policy.analytics.objection(spec)
            return Decision(REFUSE, f"analytics: {objection}") if objection else Decision(ACCEPT)
        if policy.apps is not None:
            reason = "analytics: the site's owner has allowed no questions"
            is_held = policy.unlisted_apps == HOLD
            return Decision(HOLD, f"{reason}; its owner decides") if is_held else Decision(REFUSE, reason)
    if _allows(policy.apps, proposal.app):
        return Decision(ACCEPT)
    reason = f"apps: {proposal.app} is not on the site's list"
    if policy.unlisted_apps == HOLD:
        return Decision(HOLD, f"{reason}; its owner decides")
    return Decision(REFUSE, reason)


def _analytics(document: Section) -> Analytics:
    section = document.section("analytics", ("questions", "min_group", "min_sites"))
    return Analytics(
        questions=_allowed(section, "questions", None),
        min_group=section.whole("min_group", 10, 1, 1_000_000) or 1,
        min_sites=section.whole("min_sites", 1, 1, 1_000_000) or 1,
    )


def _objection(spec: RoleSpec, policy: Policy, site: str) -> str:
    """Why this site does not play its role; empty if it does."""
    role = spec.role_of(site)
    if role is None:
        return "roles: the job has no role for this site"
    allowed = policy.role(role)
    if allowed is None:
        return f"roles: {role} is not on the site's list"
    for other, peer in sorted(spec.roles.items()):
        if other != role and not _allows(allowed.peers, peer):
            return f"roles.{role}.peers: {peer}, which plays {other}, is not on the site's list"
    if spec.protocol.guarantee.adversary == "none" and not allowed.unproven:
        return f"roles.{role}.unproven: {spec.protocol.name} has no proof, and the site wants one"
    bits = spec.protocol.guarantee.statistical_bits
    if bits < allowed.statistical_bits:
        least = allowed.statistical_bits
        return f"roles.{role}.statistical_bits: {spec.protocol.name} keeps to {bits}, and the site wants {least}"
    for reveal in spec.protocol.reveals:
        if reveal.about == role and not _allows(allowed.reveals, reveal.what):
            to = f"{reveal.to} {spec.roles[reveal.to]}" if reveal.to in spec.roles else "the server, and who submits,"
            return f"roles.{role}.reveals: {reveal.what}, which {to} would learn, is not on the site's list"
    return ""


def _roles(document: Section) -> dict[str, RolePolicy]:
    section = document.section("roles")
    found = {}
    for role in section.values:
        if type(role) is not str:
            raise section.error(role, "the name of a role")
        each = section.section(role, _ROLE_KEYS)
        found[role] = RolePolicy(
            peers=_allowed(each, "peers", frozenset()),
            reveals=_allowed(each, "reveals", frozenset()),
            datasets=_allowed(each, "datasets", None),
            unproven=each.flag("unproven", False),
            lends=_allowed(each, "lends", frozenset()),
            queries=each.whole("queries", None, 0, 1_000_000_000),
            statistical_bits=each.whole("statistical_bits", 0, 0, 128) or 0,
        )
    return found


def _allows(allowed: Allowed, name: str) -> bool:
    return allowed is None or name in allowed


def _allowed(document: Section, key: str, default: Allowed, form: "re.Pattern[str] | None" = None) -> Allowed:
    what = "`any` or a list of SHA-256 in hexadecimal" if form is not None else "`any` or a list of names"

    def fits(value: Any) -> bool:
        return value == "any" or (
            isinstance(value, list)
            and all(type(item) is str and (form is None or form.fullmatch(item) is not None) for item in value)
        )

    value = document.get(key, default, what, fits)
    return None if value in ("any", None) else frozenset(value)
