"""A function that is told no keys does its work and cannot send or believe anybody."""

from pathlib import Path

import pytest

from hanse.core.errors import ConfigError
from hanse.serverless import contract
from hanse.serverless.place import on_aws
from tests.conformance.emulator import REGION, Session, emulated


def test_who_signs_nothing_needs_no_keys(tmp_path: Path) -> None:
    with emulated() as config:
        environment = {
            contract.FEDERATION: config.federation,
            contract.BUCKET: config.bucket,
            contract.TABLE: config.table,
            contract.SERVER_QUEUE: "https://sqs.invalid/1/hanse-server",
            contract.STATE_MACHINE: f"arn:aws:states:{REGION}:123456789012:stateMachine:hanse",
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": config.endpoint or "",
        }
        place = on_aws(environment, Session(), signs=False)
        assert place.federation == config.federation
        with pytest.raises(ConfigError, match="HANSE_KEYS"):
            place.inbox.send  # noqa: B018 - looking is enough
        with pytest.raises(ConfigError, match="HANSE_KEYS"):
            place.roster.member  # noqa: B018 - looking is enough
        with pytest.raises(ConfigError, match="expected the environment variables HANSE_KEYS"):
            on_aws(environment, Session())
