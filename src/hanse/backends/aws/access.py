"""Credentials of a site or a person: this machine's own, a profile, or a role that is assumed and renewed."""

from typing import Any

from hanse.backends.aws.errors import aws_errors, imported
from hanse.core.errors import PolicyError


def session_of(region: str, profile: str = "", role: str = "", external_id: str = "", endpoint: str = "") -> Any:
    """A boto3 session.

    Args:
        profile: of this machine's AWS settings; empty for its default credentials.
        role: ARN of a role to assume; its credentials are renewed before they end.
        external_id: what the role's owner asks for, against confused deputies.
        endpoint: another URL than AWS's, for emulators.

    Raises:
        PolicyError: no such profile, or the role may not be assumed.
    """
    boto3, _ = imported()
    import botocore.exceptions

    try:
        session = boto3.Session(region_name=region, profile_name=profile or None)
    except botocore.exceptions.ProfileNotFound:
        raise PolicyError(
            f"aws: no profile {profile[:60]!r} on this machine; see: aws configure list-profiles"
        ) from None
    if not role:
        return session
    return _assumed(boto3, session, region, role, external_id, endpoint)


def _assumed(boto3: Any, session: Any, region: str, role: str, external_id: str, endpoint: str) -> Any:
    import botocore.session
    from botocore.credentials import RefreshableCredentials

    sts = session.client("sts", endpoint_url=endpoint or None)
    more = {"ExternalId": external_id} if external_id else {}

    def assume() -> dict[str, str]:
        try:
            with aws_errors(f"assuming the role {role.rpartition('/')[2]}"):
                found = sts.assume_role(RoleArn=role, RoleSessionName="hanse", DurationSeconds=3600, **more)
        except PolicyError as error:  # AWS does not say which
            raise PolicyError(
                f"{error}. The role is not there, does not trust who this machine is, or wants another external id: "
                "compare role and external_id with what the operator sent, and see: aws sts get-caller-identity"
            ) from None
        found = found["Credentials"]
        return {
            "access_key": found["AccessKeyId"],
            "secret_key": found["SecretAccessKey"],
            "token": found["SessionToken"],
            "expiry_time": found["Expiration"].isoformat(),
        }

    inner = botocore.session.get_session()
    inner._credentials = RefreshableCredentials.create_from_metadata(assume(), assume, "sts-assume-role")
    inner.set_config_variable("region", region)
    return boto3.Session(botocore_session=inner, region_name=region)
