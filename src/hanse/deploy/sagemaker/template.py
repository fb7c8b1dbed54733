"""What these templates say in CloudFormation's words beyond `hanse.deploy.aws.template`."""

from typing import Any

from hanse.deploy.aws.template import ref

PARTITION, REGION, ACCOUNT = ref("AWS::Partition"), ref("AWS::Region"), ref("AWS::AccountId")
NOTHING = ref("AWS::NoValue")


def join(*parts: Any) -> Any:
    """Parts one after another; a plain text where all are."""
    if all(isinstance(part, str) for part in parts):
        return "".join(parts)
    flat: list[Any] = []
    for part in parts:
        inner = part["Fn::Join"][1] if isinstance(part, dict) and "Fn::Join" in part else [part]
        flat += inner
    return {"Fn::Join": ["", flat]}


def text(about: str) -> dict[str, Any]:
    """A parameter that is a text."""
    return {"Type": "String", "Description": about}


def optional(about: str) -> dict[str, Any]:
    """A parameter that is a text and may be left out."""
    return {**text(about), "Default": ""}


def given(name: str) -> dict[str, Any]:
    """The condition that such a parameter was not left out."""
    return {"Fn::Not": [{"Fn::Equals": [ref(name), ""]}]}


def both(*conditions: str) -> dict[str, Any]:
    """The condition that all of these hold."""
    return {"Fn::And": [{"Condition": name} for name in conditions]}


def allow(actions: list[str], resource: Any, condition: Any = None) -> dict[str, Any]:
    """A statement that allows."""
    statement = {"Effect": "Allow", "Action": actions, "Resource": resource}
    return statement if condition is None else {**statement, "Condition": condition}
