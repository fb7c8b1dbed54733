"""The functions and the state machine in this process: for tests, for a walk-through, and to look at a federation.

What AWS does around the functions is done here by hand: messages of the server's queue become batches, instructions
become calls. The federation's data lie where they always do, in its bucket, table and queues or in an emulator's.
"""

import asyncio
import base64
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from hanse.core.errors import ConfigError, HanseError
from hanse.core.ids import SERVER
from hanse.serverless import functions
from hanse.serverless.apps import Apps
from hanse.serverless.contract import Input, Instruction
from hanse.serverless.place import Place

RETRY_S = 1.0
Function = Callable[[Place, Mapping[str, Any]], Awaitable[dict[str, Any]]]
log = structlog.get_logger("hanse.serverless")


class Local:
    """A federation's functions at work. `start`, then `stop`.

    Args:
        place: where they run; its state machine is replaced by this one.
        batch: messages of the queue that one `collect` gets.
        invoke: calls a function; by default in this process.
        apps: where an app's own server side runs; None where no app has one.
    """

    def __init__(
        self, place: Place, *, batch: int = 10, invoke: "Invoke | None" = None, apps: Apps | None = None
    ) -> None:
        ledger: Any = _Streamed(place.ledger, self) if place.watched else place.ledger
        self.place = replace(place, machine=self, ledger=ledger)
        self.executions: dict[str, asyncio.Task[None]] = {}
        self.invocations: dict[str, int] = {}
        self._batch = batch
        self._apps = apps
        self._invoke = invoke or self._call
        self._waiting: dict[str, asyncio.Future[Instruction]] = {}
        self._collecting: asyncio.Task[None] | None = None
        self._looking: set[asyncio.Task[Any]] = set()

    def start_collecting(self) -> None:
        """Take what comes to the server's queue."""
        self._collecting = asyncio.ensure_future(self._collect())

    async def stop(self) -> None:
        """Stop; everything can be taken up again."""
        tasks = [*self._looking, *self.executions.values(), *([] if self._collecting is None else [self._collecting])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._apps is not None:
            await self._apps.close()

    # ---- what functions ask of the state machine (`place.Machine`) ----

    async def start(self, name: str, input: Input) -> None:
        """Start an execution, unless one of this name has been started."""
        if name not in self.executions:
            self.executions[name] = asyncio.ensure_future(self._execute(dict(input)))

    async def succeed(self, token: str, output: Instruction) -> bool:
        """Call back whoever waits with this token; whether somebody did."""
        waiting = self._waiting.get(token)
        if waiting is None or waiting.done():
            return False
        waiting.set_result(output)
        return True

    # ---- the interpreter ----

    async def _execute(self, input: Mapping[str, Any]) -> None:
        instruction: Mapping[str, Any] = await self._surely("step", input)
        while True:
            match instruction["kind"]:
                case "Wait":
                    instruction = await self._wait(instruction)
                case "Reduce":
                    await asyncio.gather(*(self._surely("reduce", shard) for shard in instruction["shards"]))
                    instruction = await self._surely("step", instruction)
                case "Evaluate":
                    instruction = await self._surely("evaluate", instruction)
                case "Step":
                    await self.start(instruction["name"], instruction["input"])
                    return
                case "Again":
                    instruction = await self._surely("step", instruction)
                case _:
                    return

    async def _wait(self, instruction: Mapping[str, Any]) -> Mapping[str, Any]:
        token = secrets.token_hex(16)
        self._waiting[token] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(instruction["timeout_s"]):
                await self._surely("timer", {"token": token, "instruction": instruction})
                return await self._waiting[token]
        except TimeoutError:
            return await self._surely("step", instruction)
        finally:
            del self._waiting[token]

    async def _collect(self) -> None:
        while True:
            try:
                deliveries = await self.place.inbox.receive(SERVER, self._batch, 20.0)
            except HanseError as error:
                log.error("queue not read", reason=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            if not deliveries:
                continue
            records = [
                {
                    "messageId": str(number),
                    "body": base64.b64encode(delivery.envelope.pack()).decode(),
                    "attributes": {"ApproximateReceiveCount": str(delivery.count)},
                }
                for number, delivery in enumerate(deliveries)
            ]
            answer: Mapping[str, Any] = {"batchItemFailures": [{"itemIdentifier": r["messageId"]} for r in records]}
            try:
                answer = await self._invoke("collect", {"Records": records})
            except Exception as error:  # as where functions are invoked: the whole batch comes again
                log.error("function failed", function="collect", reason=f"{type(error).__name__}: {error}"[:500])
            failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
            await self.place.inbox.ack([d.receipt for n, d in enumerate(deliveries) if str(n) not in failed])

    def streamed(self, key: str) -> None:
        """A row has appeared in the table."""
        encoded = base64.b64encode(key.encode()).decode()
        record = {"eventName": "INSERT", "dynamodb": {"Keys": {"k": {"B": encoded}}, "SequenceNumber": "1"}}
        task = asyncio.ensure_future(self._surely("step", {"Records": [record]}))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _surely(self, name: str, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """A function, again while it fails, as the state machine does."""
        while True:
            try:
                return await self._invoke(name, event)
            except HanseError as error:
                log.error("function failed", function=name, reason=f"{type(error).__name__}: {error}"[:500])
                await asyncio.sleep(RETRY_S)

    async def _call(self, name: str, event: Mapping[str, Any]) -> Mapping[str, Any]:
        self.invocations[name] = self.invocations.get(name, 0) + 1
        if name == "evaluate":
            if self._apps is None:
                raise ConfigError("evaluate: expected somewhere for an app's own server side to run")
            return await functions.evaluate(self.place, event, self._apps)
        function: Function = getattr(functions, name)
        return await function(self.place, event)


class _Streamed:
    """A ledger whose new rows invoke `step`, as the table's stream does."""

    def __init__(self, ledger: Any, local: Local) -> None:
        self._ledger = ledger
        self._local = local

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def create(self, key: str, value: bytes) -> bool:
        """As the ledger's."""
        created: bool = await self._ledger.create(key, value)
        if created and key.partition("/")[0] in functions.LOOKED_AT:
            self._local.streamed(key)
        return created


Invoke = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
