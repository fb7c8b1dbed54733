"""A federation without a server on an emulator: real site processes; functions and state machine in a thread."""

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from hanse.backends.aws import AwsConfig, AwsStore
from hanse.demos import local_federation
from hanse.demos.local_federation import POLICY, Child
from hanse.person.federation import Federation
from hanse.server.members import ADMIN, Members
from hanse.serverless import contract
from hanse.serverless.apps import Apps
from hanse.serverless.keys import pack
from hanse.serverless.local import Local
from hanse.serverless.place import Place, on_aws
from hanse.site.over_queues import SERVER_RECORD
from hanse.trust.authority import Authority
from hanse.trust.identity import MemberKeys, SigningRequest
from hanse.trust.membership import Membership
from hanse.workers.launcher import Launcher
from tests.conformance.emulator import REGION, Session, deployed
from tests.nursery import MEMBERS, forks
from tests.patience import WAIT_S

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION}
_numbers = itertools.count(1)


@dataclass
class AwsFederation:
    """A federation in `directory` and on the emulator.

    Args:
        sites: site name → declarations of its data sets.
        settings: further lines of every `site.yaml`.
        policy: every site's.
        starts: whether the sites' agents are started.
    """

    directory: Path
    sites: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    batch: int = 10
    policy: str = POLICY
    starts: bool = True
    children: dict[str, Child] = field(init=False, default_factory=dict)

    def __enter__(self) -> Self:
        self._before = dict(os.environ)
        os.environ.update(CREDENTIALS)  # the person's, in this process
        self.name = f"n{next(_numbers)}"
        self.config: AwsConfig = deployed(self.name, (*self.sites, "server"))
        self.store = AwsStore.open(self.config, Session())
        self.directory.mkdir(parents=True, exist_ok=True)
        asyncio.run(self._enrol())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.local = self.on_loop(self._serve())
        for child in self.children.values() if self.starts else ():
            self._start(child)
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children.values() if self.starts else ():
            child.signal(signal.SIGTERM)
        for child in self.children.values() if self.starts else ():
            child.wait()
        self.on_loop(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        os.environ.clear()
        os.environ.update(self._before)

    def _start(self, child: Child) -> None:
        with forks(local_federation, MEMBERS):
            child.start({"PYTHONUNBUFFERED": "1", **CREDENTIALS, **self.environment})

    def restart(self, site: str) -> None:
        """kill -9 of a site's agent, and start it again."""
        child = self.children[site]
        child.signal(signal.SIGKILL)
        child.wait()
        self._start(child)

    def on_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def federation(self) -> Federation:
        """As the person reaches it."""
        return Federation.load(self.directory / "anna")

    def place(self) -> Place:
        """What a function is handed."""
        environment = {
            contract.FEDERATION: self.name,
            contract.BUCKET: self.config.bucket,
            contract.TABLE: self.config.table,
            contract.SERVER_QUEUE: "by-name",
            contract.KEYS: f"file:{self.directory / 'keys.json'}",
            contract.STATE_MACHINE: "arn:aws:states:eu-central-1:123456789012:stateMachine:none",
            "AWS_ENDPOINT_URL": str(self.config.endpoint),
            "AWS_REGION": REGION,
            **self.environment,
        }
        return on_aws(environment, Session())

    async def _stop(self) -> None:
        await self.local.stop()
        self.store.close()

    async def _serve(self) -> Local:
        apps = Apps(Launcher.start(), self.directory / "apps")
        local = Local(self.place(), apps=apps, batch=self.batch)
        local.start_collecting()
        return local

    async def _enrol(self) -> None:
        authority = Authority.create(self.name)
        members = Members(authority, self.store.ledger, address="aws:1")
        server = await self._member(authority, members, "server", "server")
        (self.directory / "keys.json").write_text(pack(server))
        anna = await self._member(authority, members, "person", "anna", (ADMIN,))
        anna.save(self.directory / "anna")
        aws = {"region": REGION, "bucket": self.config.bucket, "endpoint": self.config.endpoint}
        about = {"federation": self.name, "aws": aws}
        (self.directory / "anna" / "federation.yaml").write_text(yaml.safe_dump(about))
        for site, datasets in self.sites.items():
            membership = await self._member(authority, members, "site", site)
            place = self.directory / site
            membership.save(place)
            (place / SERVER_RECORD).write_bytes(server.signed_record)
            access = {"region": REGION, "endpoint": self.config.endpoint}
            values = {"name": site, "durability": "process", "aws": access, "datasets": dict(datasets)}
            (place / "site.yaml").write_text(yaml.safe_dump({**values, **self.settings}))
            (place / "policy.yaml").write_text(self.policy)
            self.children[site] = Child("site", place)

    async def _member(
        self, authority: Authority, members: Members, kind: str, name: str, roles: tuple[str, ...] = ()
    ) -> Membership:
        (self.directory / name).mkdir(mode=0o700)
        keys = MemberKeys.generate()
        request = SigningRequest.request(keys, federation=self.name, kind=kind, name=name)
        issued = authority.issue(request, kind=kind, name=name, hosts=("localhost",) if kind == "server" else ())
        await members.enrol(issued, roles)
        return Membership.check(
            keys,
            certificate_pem=issued.certificate_pem,
            authority_pem=authority.certificate_pem,
            signed_record=issued.record,
            address="aws:1",
        )
