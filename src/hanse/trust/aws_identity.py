"""Joining by AWS identity: a site signs one GetCallerIdentity call, the server sends it to STS and reads who that is.

The site's keys for AWS never travel: what travels is one signed request (Signature Version 4: AWS General Reference,
"Signing AWS API requests"), good for that call only and for 15 minutes. As HashiCorp Vault's `aws` method has it, a
signed header says what the request is for; here also for which keys: who sees the proof can join with no others.

**Guarantee.** What STS answers is the account and role of whoever signed; the header binds the signature to federation,
authority, site and the signing request's digest. Assumes that TLS to STS and the SHA-256 HMAC of SigV4 hold.
**Reveals.** To the server and to STS: account, role and session name.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, TrustError, UnavailableError
from hanse.trust.strict_json import parse_json, read_field

MARK = b"aws1"
"""How a proof begins where a join token's secret would be."""
HEADER = "x-hanse-join"
BODY = b"Action=GetCallerIdentity&Version=2011-06-15"
LARGEST = 8192
_SENT = ("authorization", "content-type", "x-amz-date", "x-amz-security-token", HEADER)
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_ARN = re.compile(r"arn:aws[a-z-]*:(?:sts|iam)::(\d{12}):(assumed-role|role|user)/([\w+=,.@/-]+)")
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=[\w/+-]+, ?SignedHeaders=([a-z0-9-]+(?:;[a-z0-9-]+)*), ?Signature=[0-9a-f]{64}"
)
"""The whole header: a second `SignedHeaders` could be the one that STS reads."""
Post = Callable[[str, Mapping[str, str], bytes], tuple[int, bytes]]
"""Sends a POST: (address, headers, body) → (status, body)."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A signed call: the region whose STS is to be asked, and the headers."""

    region: str
    headers: Mapping[str, str]

    def encode(self) -> bytes:
        """What goes where a token's secret would be."""
        return MARK + canonical_json({"region": self.region, "headers": dict(self.headers)})

    @classmethod
    def decode(cls, content: bytes) -> "Proof":
        """Read what `encode` wrote; from outside, so everything is checked.

        Raises:
            TrustError: not a proof.
        """
        if not content.startswith(MARK) or len(content) > LARGEST:
            raise TrustError("joining by AWS identity: expected a signed call")
        try:
            value = parse_json(content[len(MARK) :], what="AWS identity")
            region, headers = read_field(value, "region", str, "AWS identity"), value.get("headers")
        except CodecError as error:
            raise TrustError(f"joining by AWS identity: {error}") from None
        if _REGION.fullmatch(region) is None or not isinstance(headers, dict):
            raise TrustError("joining by AWS identity: expected a region and headers")
        names = {str(name).lower(): text for name, text in headers.items()}
        if not set(names) <= set(_SENT) or not all(isinstance(t, str) and t.isprintable() for t in names.values()):
            raise TrustError(f"joining by AWS identity: expected no headers but {', '.join(_SENT)}")
        signed = _AUTHORIZATION.fullmatch(names.get("authorization", ""))
        if signed is None or HEADER not in signed[1].split(";") or "host" not in signed[1].split(";"):
            raise TrustError(f"joining by AWS identity: expected a signature over host and {HEADER}")
        return cls(region, names)


@dataclass(frozen=True, slots=True)
class AwsIdentity:
    """Who may join as a site: an account, and the name of a role in it."""

    account: str
    role: str

    def __post_init__(self) -> None:
        if re.fullmatch(r"\d{12}", self.account) is None or not self.role or re.search(r"[^\w+=,.@-]", self.role):
            raise ConfigError(f"aws identity: expected an account of 12 digits and a role's name, found {self}")


def host_of(region: str) -> str:
    """The regional STS; never an address that came from outside."""
    return f"sts.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def prove(access: str, secret: str, session: str, *, region: str, bound: bytes, now: datetime | None = None) -> Proof:
    """Sign the call.

    Args:
        access, secret, session: credentials; the session token is empty for long-lived ones.
        bound: what the proof is for; its SHA-256 is the signed header.
        now: the time; None for now.
    """
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "content-type": "application/x-www-form-urlencoded; charset=utf-8",
        "host": host_of(region),
        HEADER: hashlib.sha256(bound).hexdigest(),
        "x-amz-date": stamp,
        **({"x-amz-security-token": session} if session else {}),
    }
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(BODY).hexdigest()}"
    scope = f"{stamp[:8]}/{region}/sts/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    credential = f"Credential={access}/{scope}, SignedHeaders={names}, Signature={signature}"
    sent = {name: value for name, value in headers.items() if name != "host"}
    return Proof(region, {**sent, "authorization": f"AWS4-HMAC-SHA256 {credential}"})


def verify(proof: Proof, bound: bytes, post: Post, *, endpoint: str = "") -> AwsIdentity:
    """Ask STS who signed.

    Args:
        bound: what the proof must be for.
        post: the network.
        endpoint: another address of STS, for tests and private endpoints; from the operator, never from a site.

    Raises:
        TrustError: the proof is for something else, or STS does not know the signature.
        UnavailableError: STS cannot be asked now.
    """
    if not hmac.compare_digest(proof.headers.get(HEADER, ""), hashlib.sha256(bound).hexdigest()):
        raise TrustError("joining by AWS identity: the signature is for another federation, site or key")
    address = endpoint or f"https://{host_of(proof.region)}/"
    headers = {**proof.headers, "host": urlsplit(address).netloc if endpoint else host_of(proof.region)}
    status, content = post(address, headers, BODY)
    if status >= 500:
        raise UnavailableError(f"joining by AWS identity: STS answers {status}; try again")
    if status != 200:
        raise TrustError(f"joining by AWS identity: STS answers {status} to the signed call; has it expired?")
    return identity_in(content)


def identity_in(content: bytes) -> AwsIdentity:
    """Account and role in STS's answer.

    Raises:
        TrustError: something else.
    """
    if b"<!" in content or len(content) > LARGEST:  # no document type, so no entities
        raise TrustError("joining by AWS identity: expected a plain answer of STS")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError:
        raise TrustError("joining by AWS identity: expected STS's answer, found something else") from None
    arn = next((each.text or "" for each in root.iter() if each.tag.rpartition("}")[2] == "Arn"), "")
    found = _ARN.fullmatch(arn)
    if found is None:
        raise TrustError("joining by AWS identity: expected the ARN of a role's session, found another identity")
    account, kind, path = found.groups()
    if kind != "assumed-role":
        raise TrustError(f"joining by AWS identity: expected a role's session, found a {kind}")
    return AwsIdentity(account, path.split("/")[0])


def allowed(value: Any, where: str) -> dict[str, AwsIdentity]:
    """Who may join as which site, as `server.yaml` has it: `{north: {account: "111122223333", role: FL-execution}}`.

    Raises:
        ConfigError: something in it is wrong; begins with `where`.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected sites with account and role, found {type(value).__name__}")
    found = {}
    for site, each in value.items():
        if not isinstance(each, dict) or set(each) != {"account", "role"}:
            raise ConfigError(f"{where}: {str(site)[:60]}: expected account and role, and nothing else")
        try:
            found[str(site)] = AwsIdentity(str(each["account"]), str(each["role"]))
        except ConfigError as error:
            raise ConfigError(f"{where}: {str(site)[:60]}: {error}") from None
    return found
