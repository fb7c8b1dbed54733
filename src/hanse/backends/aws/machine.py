"""A Step Functions state machine: started by name, called back by token."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from hanse.backends.aws.errors import aws_errors, code_of

_GONE = ("TaskTimedOut", "TaskDoesNotExist", "InvalidToken")


class StateMachine:
    """One state machine.

    Args:
        client: a boto3 client of Step Functions.
        arn: the state machine's.
    """

    def __init__(self, client: Any, arn: str) -> None:
        self._client = client
        self._arn = arn

    async def start(self, name: str, input: Mapping[str, Any]) -> None:
        """Start an execution; one of this name that runs, or has run, is as good."""
        await asyncio.to_thread(self._start, name, json.dumps(input))

    async def succeed(self, token: str, output: Mapping[str, Any]) -> bool:
        """Call back whoever waits with this token. False where nobody does, or somebody was faster."""
        return await asyncio.to_thread(self._succeed, token, json.dumps(output))

    def _start(self, name: str, input: str) -> None:
        import botocore.exceptions

        with aws_errors("starting the state machine"):
            try:
                self._client.start_execution(stateMachineArn=self._arn, name=name, input=input)
            except botocore.exceptions.ClientError as error:
                if code_of(error) != "ExecutionAlreadyExists":
                    raise

    def _succeed(self, token: str, output: str) -> bool:
        import botocore.exceptions

        with aws_errors("calling the state machine back"):
            try:
                self._client.send_task_success(taskToken=token, output=output)
            except botocore.exceptions.ClientError as error:
                if code_of(error) not in _GONE:
                    raise
                return False
        return True
