"""A TCP proxy on loopback that behaves like a bad network: passes, swallows, cuts, counts.

`swallow` is a network that loses every packet: nothing arrives at either end, connections stay open, and what was sent
arrives when the network is back, as TCP sends it again. (Bytes are left in the kernel's buffers, not thrown away.)
"""

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self

from tests.patience import WAIT_S

PIECE = 1 << 16
UP, DOWN = "up", "down"


class Proxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target`, from a thread of its own. Use as a context manager.

    Attributes:
        port: where it listens.
        moved: bytes by direction (`up` is towards the target) since `count_from_here`.
    """

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self.port = 0
        self.moved = {UP: 0, DOWN: 0}
        self.cuts = 0
        self._cut_at: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._passing = asyncio.Event()
        self._passing.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._connected = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(WAIT_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(WAIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    # ---- what the network does ----

    def await_connection(self) -> None:
        """Wait until somebody has connected."""
        assert self._connected.wait(WAIT_S), "nobody has connected"

    def swallow(self) -> None:
        """From now on nothing arrives."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def let_pass(self) -> None:
        """The network is back."""
        self._loop.call_soon_threadsafe(self._passing.set)

    def cut(self) -> None:
        """Break every open connection; new ones are served."""
        self._loop.call_soon_threadsafe(self._cut)

    def cut_after(self, direction: str, num_bytes: int) -> None:
        """Break every open connection once, when so many more bytes have moved in a direction."""
        self._cut_at[direction] = self.moved[direction] + num_bytes

    def count_from_here(self) -> None:
        """Set the counts to zero."""
        self.moved.update({UP: 0, DOWN: 0})

    # ---- how ----

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=PIECE)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        self._server.close()
        self._cut()
        me = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not me]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self._connected.set()
        try:
            await self._passing.wait()
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target, limit=PIECE)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(up_writer)
        try:
            ways = [self._forward(UP, reader, up_writer), self._forward(DOWN, up_reader, writer)]
            await asyncio.gather(*ways)
        finally:
            for each in (writer, up_writer):
                self._open.discard(each)
                each.transport.abort()

    async def _forward(self, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                await self._passing.wait()
                piece = await reader.read(PIECE)
                await self._passing.wait()
                if not piece:
                    writer.write_eof()
                    return
                self.moved[direction] += len(piece)
                if self.moved[direction] >= self._cut_at.get(direction, self.moved[direction] + 1):
                    del self._cut_at[direction]
                    self.cuts += 1
                    self._cut()
                    return
                writer.write(piece)
                await writer.drain()
