"""Templates to stacks: a change set is made, shown or executed, and followed to its end."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hanse.core.errors import NotFoundError, UnavailableError
from hanse.deploy.aws.account import Account, calling, explained
from hanse.deploy.aws.template import render

POLL_S = 2.0
EMULATED_POLL_S = 0.2
LONGEST_S = 3600.0
INLINE_BYTES = 51_200
"""Larger templates must lie in a bucket."""
_NOTHING = ("didn't contain changes", "No updates are to be performed", "no changes")

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Change:
    """One resource that a change set touches. `replaced`: made anew, which loses what it holds."""

    action: str
    name: str
    kind: str
    replaced: bool


@dataclass(frozen=True, slots=True)
class StackView:
    """A stack as it is: outputs, parameters and what AWS says of it."""

    status: str
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]


def look_at(account: Account, stack: str) -> StackView | None:
    """A stack, or None if there is none."""
    import botocore.exceptions

    with calling(f"looking at stack {stack}"):
        try:
            (found,) = account.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
        except botocore.exceptions.ClientError as error:
            if "does not exist" in str(error):
                return None
            raise
    if found["StackStatus"] in ("REVIEW_IN_PROGRESS", "DELETE_COMPLETE"):
        return None
    return StackView(
        found["StackStatus"],
        {item["OutputKey"]: item["OutputValue"] for item in found.get("Outputs", [])},
        {item["ParameterKey"]: item.get("ParameterValue", "") for item in found.get("Parameters", [])},
    )


def changes(
    account: Account,
    stack: str,
    template: Mapping[str, Any],
    parameters: Mapping[str, str],
    *,
    upload: Callable[[str], str] | None = None,
) -> tuple[str, list[Change]]:
    """What would change: the name of a change set and what is in it; no name where nothing would.

    Args:
        upload: puts a template that is too large into a bucket and gives its URL.
    """
    exists = look_at(account, stack) is not None
    text = render(template, small=True)
    source = {"TemplateBody": text}
    if len(text.encode()) > INLINE_BYTES:
        if upload is None:
            raise UnavailableError(f"stack {stack}: the template is too large to be sent, and there is no code bucket")
        source = {"TemplateURL": upload(text)}
    client = account.client("cloudformation")
    name = f"hanse-{time.time_ns() // 1_000_000}"
    with calling(f"asking what would change in stack {stack}"):
        client.create_change_set(
            StackName=stack,
            ChangeSetName=name,
            ChangeSetType="UPDATE" if exists else "CREATE",
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            **source,
        )
        described = _settled(account, stack, name)
        found = described["Changes"]
        if described["Status"] == "FAILED":
            reason = described.get("StatusReason", "")
            if not any(word in reason for word in _NOTHING):
                raise explained(f"stack {stack}", reason)
            client.delete_change_set(StackName=stack, ChangeSetName=name)
            return "", []
    return name, [_change(item["ResourceChange"]) for item in found if "ResourceChange" in item]


def forget(account: Account, stack: str, change_set: str) -> None:
    """Drop a change set; and the stack, if it was to be made by it."""
    client = account.client("cloudformation")
    with calling(f"dropping the changes to stack {stack}"):
        client.delete_change_set(StackName=stack, ChangeSetName=change_set)
        if look_at(account, stack) is None:
            client.delete_stack(StackName=stack)


def execute(account: Account, stack: str, change_set: str, tell: Tell) -> StackView:
    """Perform a change set and follow it.

    Raises:
        HanseError: it failed and was rolled back: the first resource that failed, and why.
    """
    with calling(f"changing stack {stack}"):
        account.client("cloudformation").execute_change_set(StackName=stack, ChangeSetName=change_set)
    return _followed(account, stack, tell)


def delete(account: Account, stack: str, tell: Tell) -> bool:
    """Delete a stack and follow it to its end; False if there was none.

    Raises:
        HanseError: something in it could not be deleted.
    """
    if look_at(account, stack) is None:
        return False
    client = account.client("cloudformation")
    with calling(f"deleting stack {stack}"):
        found = client.describe_stacks(StackName=stack)["Stacks"][0]["StackId"]
        client.delete_stack(StackName=stack)
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        with calling(f"deleting stack {stack}"):
            try:
                status = client.describe_stacks(StackName=found)["Stacks"][0]["StackStatus"]
            except client.exceptions.ClientError:
                return True
        if status == "DELETE_COMPLETE":
            return True
        if status == "DELETE_FAILED":
            raise explained(f"deleting stack {stack}", _first_failure(account, found))
        tell(f"{stack}: {status}")
        time.sleep(_pause(account))
    raise UnavailableError(f"stack {stack}: still being deleted after an hour; look at it in the AWS console")


def _settled(account: Account, stack: str, name: str) -> dict[str, Any]:
    client = account.client("cloudformation")
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        found: dict[str, Any] = client.describe_change_set(StackName=stack, ChangeSetName=name)
        if found["Status"] in ("CREATE_COMPLETE", "FAILED"):
            changed, token = list(found.get("Changes", [])), found.get("NextToken")
            while token:
                page = client.describe_change_set(StackName=stack, ChangeSetName=name, NextToken=token)
                changed += page.get("Changes", [])
                token = page.get("NextToken")
            return {**found, "Changes": changed}
        time.sleep(_pause(account))
    raise UnavailableError(f"stack {stack}: AWS has not said what would change within an hour")


def _followed(account: Account, stack: str, tell: Tell) -> StackView:
    end, told = time.monotonic() + LONGEST_S, ""
    while time.monotonic() < end:
        view = look_at(account, stack)
        if view is None:
            raise NotFoundError(f"stack {stack}: it has gone while it was being changed")
        if not view.status.endswith("_IN_PROGRESS"):
            if "ROLLBACK" in view.status or "FAILED" in view.status:
                raise explained(f"stack {stack} ({view.status})", _first_failure(account, stack))
            return view
        if view.status != told:
            tell(f"{stack}: {view.status}")
            told = view.status
        time.sleep(_pause(account))
    raise UnavailableError(f"stack {stack}: still at work after an hour; look at it in the AWS console")


def _first_failure(account: Account, stack: str) -> str:
    with calling(f"asking why stack {stack} failed"):
        pages = account.client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=stack)
        events = [event for page in pages for event in page["StackEvents"]]
    reasons = [
        f"{event['LogicalResourceId']} ({event['ResourceType']}): {event['ResourceStatusReason']}"
        for event in events
        if event["ResourceStatus"].endswith("_FAILED")
        and "cancelled" not in event.get("ResourceStatusReason", "cancelled")
    ]
    return reasons[-1] if reasons else "AWS gives no reason; see the stack's events in the console"


def _change(found: Mapping[str, Any]) -> Change:
    return Change(
        found["Action"],
        found["LogicalResourceId"],
        found["ResourceType"],
        found.get("Replacement") in ("True", "Conditional"),
    )


def _pause(account: Account) -> float:
    return EMULATED_POLL_S if account.is_emulated else POLL_S
