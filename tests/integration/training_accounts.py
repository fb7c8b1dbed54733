"""Several AWS accounts in moto's server, in which training jobs live: by a script, or as real processes.

moto keeps accounts apart and gives sessions of roles, but its training jobs are over at once, its StopTrainingJob
answers 500, and it asks no role's trust. These three are added here, in front of it; everything else is moto's.
"""

import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs

import pytest

from hanse.deploy.sagemaker.documents import kickoff_trust
from hanse.deploy.sagemaker.runner import LocalJobs
from hanse.deploy.sagemaker.settings import Account

REGION = "eu-central-1"
LAUNCHER = "arn:aws:iam::123456789012:root"


class Life(Protocol):
    """What becomes of one training job."""

    def told(self) -> Mapping[str, Any]:
        """Status, secondary status and reason, in SageMaker's words."""

    def stop(self) -> None:
        """It is asked to stop."""


class Scripted:
    """A life by a list: each look is one step further; the last state stays.

    Args:
        states: `Status/SecondaryStatus` or `Status/SecondaryStatus: reason`.
    """

    def __init__(self, *states: str) -> None:
        self._states = list(states)
        self.stops = 0

    def told(self) -> Mapping[str, Any]:
        text = self._states.pop(0) if len(self._states) > 1 else self._states[0]
        where, _, reason = text.partition(": ")
        status, _, secondary = where.partition("/")
        found = {"TrainingJobStatus": status, "SecondaryStatus": secondary}
        return found | ({"FailureReason": reason} if reason else {})

    def stop(self) -> None:
        self.stops += 1
        self._states = ["Stopping/Stopping", "Stopped/Stopped"]


class Processes:
    """Lives as processes of the offline runner; `s3://` addresses are folders below `home`."""

    def __init__(self, home: Path) -> None:
        self.buckets = home / "buckets"
        self.runner = LocalJobs(home / "jobs", stop_s=20.0)
        self.environment: dict[str, Mapping[str, str]] = {}

    def __call__(self, request: dict[str, Any], account: str) -> "Process":
        text = json.dumps(request).replace("s3://", f"file://{self.buckets}/")
        local = json.loads(text) | {"Environment": dict(self.environment.get(request["RoleArn"], {}))}
        self.runner.create(local, account=account, region=REGION)
        return Process(self.runner, request["TrainingJobName"])


class Process:
    """One of them."""

    def __init__(self, runner: LocalJobs, name: str) -> None:
        self._runner, self._name = runner, name

    def told(self) -> Mapping[str, Any]:
        return self._runner.describe(self._name)

    def stop(self) -> None:
        self._runner.stop(self._name)


class Accounts:
    """The emulator.

    Attributes:
        url: of every service.
        lives: training job → its life.
        made: names of the training jobs, in order.
        refuse: operation → code and message that it answers instead.
    """

    def __init__(self, accounts: Iterable[Account]) -> None:
        server = pytest.importorskip("moto.server", reason="moto's server is not installed")
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.server = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self.server.start()
        self._moto = self.server._server.app
        self.server._server.app = self._answer
        self.url = "http://{}:{}".format(*self.server.get_host_and_port())
        self.live: Callable[[dict[str, Any], str], Life] = lambda request, account: Scripted("InProgress/Training")
        self.lives: dict[str, Life] = {}
        self.made: list[str] = []
        self.refuse: dict[str, tuple[str, str]] = {}
        self.trusts = {each.kickoff_arn: kickoff_trust(LAUNCHER, each.external_id) for each in accounts}

    def running(self) -> list[str]:
        """Jobs that have not ended."""
        return [name for name, life in self.lives.items() if life.told()["TrainingJobStatus"] in ("InProgress",)]

    def _answer(self, environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        if operation in self.refuse:
            code, message = self.refuse[operation]
            return _reply(respond, 400, {"__type": code, "message": message})
        if operation == "StopTrainingJob":
            self.lives[json.loads(body)["TrainingJobName"]].stop()
            return _reply(respond, 200, {})
        if operation in ("DescribeTrainingJob", "CreateTrainingJob"):
            return self._job(operation, json.loads(body), environ, respond)
        if (refusal := self._distrust(parse_qs(body.decode(errors="replace")))) is not None:
            respond("403 Forbidden", [("Content-Type", "text/xml")])
            return [refusal.encode()]
        return self._moto(environ, respond)

    def _job(self, operation: str, asked: dict[str, Any], environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        heads: list[Any] = []
        content = b"".join(self._moto(environ, lambda *head, **_: heads.append(head)))
        name = asked["TrainingJobName"]
        if not heads[0][0].startswith("200"):
            respond(*heads[0])
            return [content]
        answer = json.loads(content)
        if operation == "CreateTrainingJob":
            self.made.append(name)
            self.lives[name] = self.live(asked, answer["TrainingJobArn"].split(":")[4])
        elif name in self.lives:
            answer |= self.lives[name].told()
        return _reply(respond, 200, answer)

    def _distrust(self, form: Mapping[str, list[str]]) -> str | None:
        """What STS answers to who may not assume the role; None where its trust lets the call in."""
        if form.get("Action") != ["AssumeRole"]:
            return None
        arn = form["RoleArn"][0]
        if arn not in self.trusts:
            return None if ":role/FL-execution" in arn else _denied(arn)
        (statement,) = self.trusts[arn]["Statement"]
        wanted = statement["Condition"]["StringEquals"]["sts:ExternalId"]
        return None if form.get("ExternalId") == [wanted] else _denied(arn)


def _reply(respond: Any, status: int, value: Any) -> Iterable[bytes]:
    respond(f"{status} x", [("Content-Type", "application/x-amz-json-1.1")])
    return [json.dumps(value).encode()]


def _denied(arn: str) -> str:
    text = f"is not authorized to perform: sts:AssumeRole on resource: {arn}"
    return f"<ErrorResponse><Error><Code>AccessDenied</Code><Message>{text}</Message></Error></ErrorResponse>"


@contextmanager
def accounts_up(accounts: Iterable[Account]) -> Iterator[Accounts]:
    """The emulator, for a while."""
    found = Accounts(accounts)
    try:
        yield found
    finally:
        found.server.stop()
