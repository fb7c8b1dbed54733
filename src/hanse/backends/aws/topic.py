"""Messages to sites through an SNS topic with a filter for each site, where an organisation wants its fan-out there.

It costs a request more for each message than putting it into the queue, and nothing is gained by it: every message is
for one site. The subscription of a site's queue has raw delivery and the filter {"recipient": [SITE]}.
"""

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

from hanse.backends.aws.errors import aws_errors
from hanse.backends.aws.queues import MAX_BODY_BYTES
from hanse.core.errors import TooLargeError
from hanse.core.records import Envelope
from hanse.core.seams import Delivery, Inbox


class TopicInbox:
    """An `Inbox` that sends through a topic and receives from queues.

    Args:
        client: a boto3 client of SNS.
        arn: the topic's.
        inbox: the queues.
    """

    def __init__(self, client: Any, arn: str, inbox: Inbox) -> None:
        self._client = client
        self._arn = arn
        self._inbox = inbox

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        """Publish a message for `to`.

        Raises:
            TooLargeError: more than a topic takes.
        """
        body = base64.b64encode(envelope.pack()).decode()
        if len(body) > MAX_BODY_BYTES:
            raise TooLargeError(f"topic: expected a message of at most {MAX_BODY_BYTES} bytes, found {len(body)}")
        await asyncio.to_thread(self._publish, to, body)

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        """See `Inbox.receive`."""
        return await self._inbox.receive(who, max, wait_s)

    async def extend(self, receipts: Sequence[str], seconds: float) -> None:
        """See `Inbox.extend`."""
        await self._inbox.extend(receipts, seconds)

    async def ack(self, receipts: Sequence[str]) -> None:
        """See `Inbox.ack`."""
        await self._inbox.ack(receipts)

    def _publish(self, to: str, body: str) -> None:
        recipient = {"recipient": {"DataType": "String", "StringValue": to}}
        with aws_errors(f"publishing to {to}"):
            self._client.publish(TopicArn=self._arn, Message=body, MessageAttributes=recipient)
