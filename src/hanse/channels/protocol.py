"""What a protocol declares before it runs: its roles, its messages, its Guarantee and what it Reveals.

All of it is plain data, so that it can be printed, composed over what a job runs, and checked against a site's policy.
It describes; it proves nothing. That the code keeps to it is the business of `Party` (messages) and of the tests beside
each protocol (what is revealed).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from hanse.core.arrays import DTYPE_NAMES
from hanse.core.errors import ConfigError
from hanse.core.ids import SERVER

HEADER_BYTES = 1024
"""At least what the codec puts before one array."""

MAX_TEXT = 1000
MAX_TEXTS = 10_000
"""Texts in one declaration that comes from outside."""

Shape = tuple[int | None, ...]
"""The length of each dimension; None where it may be any."""


@dataclass(frozen=True, slots=True)
class Message:
    """One kind of message.

    Attributes:
        name: what role programs call it, such as `masked_ids`.
        sender: the role that sends it.
        recipient: the role that receives it.
        dtype: numpy's name of the dtype, such as `uint8`.
        shape: lengths, None for any.
    """

    name: str
    sender: str
    recipient: str
    dtype: str
    shape: Shape

    def difference(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> str | None:
        """In which way an array does not fit, in words without values, or None if it fits."""
        same_kind = dtype == np.dtype(self.dtype) and len(shape) == len(self.shape)
        if same_kind and all(want in (None, found) for want, found in zip(self.shape, shape, strict=True)):
            return None
        wanted = ", ".join("any" if side is None else str(side) for side in self.shape)
        return f"expected {self.dtype} ({wanted}), found {dtype} ({', '.join(map(str, shape))})"

    def max_bytes(self) -> int | None:
        """The most that an encoded array of this message takes, or None where its declared shape sets no bound."""
        if None in self.shape:
            return None
        return math.prod(each or 0 for each in self.shape) * np.dtype(self.dtype).itemsize + HEADER_BYTES


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What holds, and under which assumptions.

    Attributes:
        adversary: `semi-honest` (follows the protocol and looks) or `none` where there is no proof.
        corrupted: how many of the parties may be in the adversary's hand.
        computational_bits: what an attack costs, as a power of two.
        statistical_bits: the probability of a failure that no computation helps with, as a negative power of two.
        assumptions: what is taken for granted.
    """

    adversary: Literal["semi-honest", "none"]
    corrupted: int
    computational_bits: int
    statistical_bits: int
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reveal:
    """One thing that one role learns about another's input, beyond what it holds itself.

    Attributes:
        to: the role that learns it; or `server`, for the server and whoever submitted the job.
        about: the role whose input it depends on.
        what: a short fixed word, such as `size` or `intersection`; what a policy compares.
        detail: one sentence for a person.
    """

    to: str
    about: str
    what: str
    detail: str


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol's declaration.

    Raises:
        ConfigError: a message twice, or a role that the protocol does not have.
    """

    name: str
    roles: tuple[str, ...]
    messages: tuple[Message, ...]
    guarantee: Guarantee
    reveals: tuple[Reveal, ...]

    def __post_init__(self) -> None:
        seen = set()
        for message in self.messages:
            key = (message.sender, message.recipient, message.name)
            if key in seen:
                raise ConfigError(f"protocol {self.name}: message {message.name} is declared twice")
            seen.add(key)
            if np.dtype(message.dtype) not in DTYPE_NAMES:
                raise ConfigError(f"protocol {self.name}: message {message.name} has a dtype that does not travel")
            self._check_roles(message.name, message.sender, message.recipient)
        for reveal in self.reveals:
            if reveal.to != SERVER or reveal.about not in self.roles:
                self._check_roles(reveal.what, reveal.to, reveal.about)

    def _check_roles(self, name: str, first: str, second: str) -> None:
        if first == second or not {first, second} <= set(self.roles):
            raise ConfigError(
                f"protocol {self.name}: {name} needs two distinct roles of {', '.join(self.roles)}; "
                f"found {first}, {second}"
            )

    def find(self, sender: str, recipient: str, name: str) -> Message | None:
        """The declared message of that name and direction."""
        for message in self.messages:
            if (message.sender, message.recipient, message.name) == (sender, recipient, name):
                return message
        return None

    def told(self, role: str) -> frozenset[str]:
        """Names of metrics that the server and the submitter learn of a role."""
        return frozenset(each.what for each in self.reveals if each.to == SERVER and each.about == role)

    def describe(self) -> dict[str, Any]:
        """The declaration as a JSON value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "Protocol":
        """Read what `describe` gave, after JSON.

        Raises:
            ConfigError: it is something else, by field.
        """
        try:
            messages = tuple(Message(**{**each, "shape": tuple(each["shape"])}) for each in value["messages"])
            given = value["guarantee"]
            guarantee = Guarantee(**{**given, "assumptions": tuple(given["assumptions"])})
            reveals = tuple(Reveal(**each) for each in value["reveals"])
            found = cls(value["name"], tuple(value["roles"]), messages, guarantee, reveals)
            _check_types(found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"protocol: expected name, roles, messages, guarantee, reveals: {error!s:.200}") from None
        return found

    @classmethod
    def joined(cls, name: str, parts: Mapping[str, "Protocol"]) -> "Protocol":
        """Several protocols in one job, such as `{"psi": psi.PROTOCOL, "fit": fit.PROTOCOL}`.

        Messages are called `PART/NAME`; a role program plays one part with `party.part("psi")`. What is revealed is
        composed, and the guarantee is the weakest of all.
        """
        roles = tuple(dict.fromkeys(role for part in parts.values() for role in part.roles))
        messages = tuple(
            replace(message, name=f"{key}/{message.name}") for key, part in parts.items() for message in part.messages
        )
        return cls(
            name, roles, messages, _weakest([part.guarantee for part in parts.values()]), compose(parts.values())
        )

    def part(self, key: str) -> "Protocol":
        """The messages of one part of a joined protocol under their own names, and the roles that have some.

        Raises:
            ConfigError: there is none of that name.
        """
        start = f"{key}/"
        messages = tuple(
            replace(message, name=message.name.removeprefix(start))
            for message in self.messages
            if message.name.startswith(start)
        )
        if not messages:
            raise ConfigError(f"protocol {self.name}: it has no part {key!r:.60}")
        playing = {role for message in messages for role in (message.sender, message.recipient)}
        roles = tuple(role for role in self.roles if role in playing)
        reveals = tuple(each for each in self.reveals if {each.to, each.about} <= {*roles, SERVER})
        return Protocol(f"{self.name}/{key}", roles, messages, self.guarantee, reveals)

    def recast(self, names: Mapping[str, str]) -> "Protocol":
        """The same protocol with other names for its roles, such as `{"host": "host-2"}`."""
        if not names:
            return self

        def name(role: str) -> str:
            return names.get(role, role)

        return replace(
            self,
            roles=tuple(map(name, self.roles)),
            messages=tuple(
                replace(each, sender=name(each.sender), recipient=name(each.recipient)) for each in self.messages
            ),
            reveals=tuple(replace(each, to=name(each.to), about=name(each.about)) for each in self.reveals),
        )


def compose(protocols: Iterable[Protocol]) -> tuple[Reveal, ...]:
    """What a job that runs all of `protocols` reveals: each thing once, in the order in which it is first revealed."""
    return tuple(dict.fromkeys(reveal for protocol in protocols for reveal in protocol.reveals))


def _weakest(guarantees: Sequence[Guarantee]) -> Guarantee:
    return Guarantee(
        adversary="none" if any(each.adversary == "none" for each in guarantees) else "semi-honest",
        corrupted=min(each.corrupted for each in guarantees),
        computational_bits=min(each.computational_bits for each in guarantees),
        statistical_bits=min(each.statistical_bits for each in guarantees),
        assumptions=tuple(dict.fromkeys(text for each in guarantees for text in each.assumptions)),
    )


def _check_types(found: Protocol) -> None:
    """Refuse values of a type that a declaration does not have; it comes from outside.

    Raises:
        TypeError: one is found.
    """
    texts = [found.name, *found.roles, *found.guarantee.assumptions]
    for message in found.messages:
        texts += [message.name, message.sender, message.recipient, message.dtype]
        if not all(side is None or (type(side) is int and side >= 0) for side in message.shape):
            raise TypeError("a message's shape holds something else than lengths and nulls")
    for reveal in found.reveals:
        texts += [reveal.to, reveal.about, reveal.what, reveal.detail]
    if not all(type(text) is str and len(text) <= MAX_TEXT for text in texts):
        raise TypeError(f"expected texts of at most {MAX_TEXT} characters")
    bits = (found.guarantee.corrupted, found.guarantee.computational_bits, found.guarantee.statistical_bits)
    if found.guarantee.adversary not in ("semi-honest", "none") or any(type(each) is not int for each in bits):
        raise TypeError("a guarantee that this software does not know")
    if len(texts) > MAX_TEXTS:
        raise TypeError("more messages and reveals than any protocol has")
