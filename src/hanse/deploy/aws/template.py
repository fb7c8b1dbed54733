"""A CloudFormation template as plain values: references, statements of policies, and resources put together.

Not a language of its own: a resource is the dictionary that AWS documents. What is here saves repetition and makes the
output canonical, so that a template is the same bytes whenever it is made.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hanse.core.errors import ConfigError

Value = Any
Resource = dict[str, Any]
Resources = dict[str, Resource]
Statement = dict[str, Any]

FORMAT = "2010-09-09"


def ref(name: str) -> Value:
    """What CloudFormation calls the resource or parameter."""
    return {"Ref": name}


def att(name: str, attribute: str = "Arn") -> Value:
    """An attribute of a resource."""
    return {"Fn::GetAtt": [name, attribute]}


def sub(text: str) -> Value:
    """Text with `${Name}` and `${AWS::AccountId}` filled in."""
    return {"Fn::Sub": text}


def arn(service: str, rest: str) -> Value:
    """The ARN of something in this account and region."""
    return sub(f"arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:{rest}")


def logical(name: str) -> str:
    """A name that CloudFormation takes for a resource: letters and digits; different for different names.

    Names with '-' or '_' get a part of their hash, since `a-b` and `ab` would meet otherwise.
    """
    plain = "".join(part.capitalize() for part in re.split(r"[-_]", name))
    mark = hashlib.sha256(name.encode()).hexdigest()[:6].upper()
    return plain if plain.lower() == name else f"{plain}{mark}"


def allow(actions: Iterable[str], resources: Value, **conditions: Mapping[str, Value]) -> Statement:
    """A statement that allows; `conditions` are operators with their keys and values."""
    statement: Statement = {"Effect": "Allow", "Action": sorted(actions), "Resource": resources}
    return statement | ({"Condition": dict(conditions)} if conditions else {})


def policy(*statements: Statement) -> Value:
    """A policy document."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def trust(service: str, **conditions: Mapping[str, Value]) -> Value:
    """The trust policy of a role that a service of AWS takes on, for this account only."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": f"{service}.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    return policy(statement | ({"Condition": dict(conditions)} if conditions else {}))


def deny_plaintext(resources: Value, action: str) -> Statement:
    """Nobody comes without TLS 1.2."""
    return {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": resources,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def tagged(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as most resources want them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def together(*parts: Resources) -> Resources:
    """All resources.

    Raises:
        ConfigError: two bear one name.
    """
    found: Resources = {}
    for part in parts:
        for name, resource in part.items():
            if name in found:
                raise ConfigError(f"template: expected every resource once, found {name} twice")
            found[name] = resource
    return found


def without_check(resource: Resource, **reasons: str) -> Resource:
    """A resource that a linter's check is not for, and why (checkov reads it; so does a reviewer)."""
    skipped = [{"id": check, "comment": reason} for check, reason in reasons.items()]
    resource.setdefault("Metadata", {}).setdefault("checkov", {}).setdefault("skip", []).extend(skipped)
    return resource


def render(template: Mapping[str, Any], *, small: bool = False) -> str:
    """A template as text: one that people read, or the shortest."""
    if small:
        return json.dumps(template, separators=(",", ":"), ensure_ascii=False)
    return json.dumps(template, indent=1, ensure_ascii=False) + "\n"
