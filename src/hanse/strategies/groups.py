"""`Groups`: sites are groups, each with an aggregator of its own that does a few rounds for one of the server's.

L. Liu, J. Zhang, S. H. Song, K. B. Letaief, "Client-Edge-Cloud Hierarchical Federated Learning", ICC 2020,
https://arxiv.org/abs/1905.06641, Algorithm 1 (HierFAVG): κ1 local steps belong to the app's code, κ2 is `rounds`:

    w_ℓ ← Σ_{i ∈ C_ℓ} D_i w_i / D_ℓ      κ2 times, at edge ℓ, from its own model
    w   ← Σ_ℓ D_ℓ w_ℓ / D                at the server

The server's strategy is the app's. What a group does within itself is said here, as plain data in the signed job.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hanse.channels.protocol import Reveal
from hanse.core.errors import ConfigError
from hanse.core.spec import MAX_ROUNDS, RunSpec
from hanse.strategies.catalogue import catalogue, named
from hanse.strategies.fedavg import FedAvg
from hanse.strategies.strategy import Strategy

LONGEST_S = 1e9
"""How long a group waits for the server: for good. Only the server above judges how long a round may take."""
REVEALS = (
    Reveal("edge", "member", "update", "each member's update of every round, in clear"),
    Reveal("edge", "member", "examples", "how many it trained on"),
    Reveal("edge", "member", "metrics", "what it measured"),
    Reveal("server", "group", "update", "one of all members together, in every round of the server's"),
    Reveal("server", "group", "examples", "of all members together"),
    Reveal("server", "group", "metrics", "their mean over members, how many members, and bytes moved among them"),
    Reveal("member", "group", "model", "the group's model in each of its rounds, and the server's in each of those"),
)
"""Who learns what about whom. A group of one member hides nothing of it from the server."""


@dataclass(frozen=True, slots=True)
class Groups:
    """How every group goes on within itself.

    **Guarantee.** None proven: members trust their edge as they would a server. The server above is sent what all
    members of a group came to together, as long as the edge follows the protocol.
    **Reveals.** `REVEALS`.

    Args:
        rounds: κ2, rounds within a group for one of the server's, ≥ 1.
        strategy: how a group aggregates: a built-in one that keeps nothing from round to round and has no part at the
            sites.
        quorum: members whose answers a group's round needs, and who must be there before it begins; None for all that
            were asked, who are those that are there.

    Raises:
        ConfigError: a wrong value, by name.
    """

    rounds: int = 2
    strategy: Strategy = field(default_factory=FedAvg)
    quorum: int | None = None

    def __post_init__(self) -> None:
        rounds: object = self.rounds
        if type(rounds) is not int or not 1 <= rounds <= MAX_ROUNDS:
            raise ConfigError(f"groups.rounds: expected a whole number from 1, found {str(rounds)[:40]}")
        quorum: object = self.quorum
        if quorum is not None and (type(quorum) is not int or quorum < 1):
            raise ConfigError(f"groups.quorum: expected a whole number from 1, found {str(quorum)[:40]}")
        strategy: object = self.strategy
        if not isinstance(strategy, Strategy) or catalogue().get(strategy.name) is not type(strategy):
            found = getattr(strategy, "__name__", type(strategy).__name__)
            raise ConfigError(f"groups.strategy: expected a built-in one such as hs.FedAvg(), found {found[:60]}")
        check_part("groups.strategy", strategy)
        stays = not strategy.state_names() and strategy.needs_model and not strategy.stepwise
        if not stays or strategy.order != "position":
            raise ConfigError(
                f"groups.strategy: {type(strategy).__name__} keeps a state between rounds, has no model or waits for "
                "nobody; take hs.FedAvg() or a robust mean"
            )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "rounds": self.rounds,
            "strategy": self.strategy.name,
            "params": self.strategy.params(),
            "quorum": self.quorum,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Groups":
        """Read what `to_json` wrote; what else is there is another's.

        Raises:
            ConfigError: something is missing or wrong, by name.
        """
        deadline_s = value.get("deadline_s", LONGEST_S)
        if not isinstance(deadline_s, int | float) or not 0 < deadline_s <= LONGEST_S:
            raise ConfigError(f"run.groups.deadline_s: expected seconds above 0, found {str(deadline_s)[:40]}")
        try:
            return cls(value["rounds"], named(str(value["strategy"]), dict(value["params"])), value["quorum"])
        except (KeyError, TypeError, ValueError):
            raise ConfigError("run.groups: expected rounds, strategy, params and quorum") from None


def check_above(strategy: Strategy) -> None:
    """Refuse a strategy of the server's that cannot be had with groups.

    Raises:
        ConfigError: by name.
    """
    check_part("strategy", strategy)
    moves = strategy.needs_model and not strategy.stepwise and strategy.order == "position"
    if catalogue().get(strategy.name) is not type(strategy) or not moves:
        raise ConfigError(
            f"strategy: expected a built-in one that moves a model in rounds, found {type(strategy).__name__}"
        )


def check_part(what: str, strategy: Strategy) -> None:
    """Refuse a strategy of which a group could not pass on its part at the sites.

    Raises:
        ConfigError: by name.
    """
    if strategy.has_client_part or strategy.wants:
        raise ConfigError(f"{what}: {type(strategy).__name__} has a part at the sites, which groups do not pass on")


def within(spec: RunSpec) -> RunSpec:
    """A group's own run, of a job whose sites are groups: one that waits until the server above asks for something.

    Without a quorum it begins with the members that are there and accept it, as any job does: one that is never there
    would keep the group waiting, and to the federation above look like a straggler.

    Raises:
        ConfigError: the job's sites are no groups.
    """
    if spec.groups is None or is_within(spec):
        raise ConfigError("groups: expected a job of hs.App(groups=hs.Groups(...)), found one without")
    groups = Groups.from_json(spec.groups)
    return replace(
        spec,
        strategy=groups.strategy.name,
        params=groups.strategy.params(),
        rounds=spec.rounds * groups.rounds,
        quorum=groups.quorum,
        sample=1.0,
        over_select=0.0,
        deadline_s=LONGEST_S,
        grace_s=0.0,
        evaluate_every=1 if spec.evaluate_every else 0,
        initial="ask" if spec.initial == "ask" else "none",
        on_error="continue",
        keep_updates=False,
        min_sites=groups.quorum,
        stop=None,
        server_config=bool(spec.groups.get("config")),
        server_evaluate=False,
        selection=None,
        lr=None,
        groups={**groups.to_json(), "deadline_s": spec.deadline_s},
    )


def is_within(spec: RunSpec) -> bool:
    """Whether this is a group's own run."""
    return spec.groups is not None and "deadline_s" in spec.groups


def of_members(spec: RunSpec) -> RunSpec:
    """What plans and folds within a group go by: as `within`, with the time that the job gives a phase."""
    assert spec.groups is not None
    return replace(spec, deadline_s=float(spec.groups["deadline_s"]))
