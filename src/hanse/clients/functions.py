"""Bare functions (`@app.train`, `@app.evaluate`, `@app.query`, `@app.parameters`) as a `Client`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hanse.clients.client import Answer, Client, Config, taken_apart
from hanse.clients.site import Site
from hanse.core.arrays import Arrays

Function = Callable[..., Any]


def trainer_of(client: Client) -> Client:
    """The client that trains: what `@app.client` made, where `@app.query` stands beside it."""
    return client.inner if isinstance(client, FunctionClient) and client.side.train is None else client


@dataclass(frozen=True, slots=True)
class ClientSide:
    """What an app registered for its sites; either `client` or some of the bare functions, `query` beside both."""

    client: Function | None = None
    parameters: Function | None = None
    train: Function | None = None
    evaluate: Function | None = None
    query: Function | None = None


class FunctionClient(Client):
    """The bare functions of an app.

    Args:
        side: the functions.
        inner: the client that answers everything but `query`, where the app has `@app.client` too.
    """

    def __init__(self, side: ClientSide, inner: Client | None = None) -> None:
        self.side = side
        self.inner = inner or Client()

    def parameters(self, config: Config, site: Site) -> Any:
        """`f(site) -> arrays`."""
        if self.side.parameters is None:
            return self.inner.parameters(config, site)
        return self.side.parameters(site)

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """`f(arrays, config, site) -> (arrays, num_examples, metrics)`."""
        if self.side.train is None:
            return self.inner.train(arrays, config, site)
        answer = self.side.train(arrays, config, site)
        if type(answer) is tuple and len(answer) == 3:
            return Answer(*answer)
        return Answer(*taken_apart(answer, 3, "@app.train to return (arrays, num_examples, metrics)"))

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """`f(arrays, config, site) -> (num_examples, metrics)`."""
        if self.side.evaluate is None:
            return self.inner.evaluate(arrays, config, site)
        answer = self.side.evaluate(arrays, config, site)
        return Answer(None, *taken_apart(answer, 2, "@app.evaluate to return (num_examples, metrics)"))

    def query(self, config: Config, site: Site) -> Answer:
        """`f(config, site) -> metrics`, or `(num_examples, metrics)`, or `(arrays, num_examples, metrics)`."""
        if self.side.query is None:
            return self.inner.query(config, site)
        answer = self.side.query(config, site)
        if isinstance(answer, Mapping):
            return Answer(None, 0, answer)
        if isinstance(answer, tuple) and len(answer) == 2:
            return Answer(None, *answer)
        return Answer(*taken_apart(answer, 3, "@app.query to return metrics or (arrays, num_examples, metrics)"))

    def step(self, arrays: Arrays | None, config: Config, site: Site) -> Answer:
        """Only a client of ours takes part in a protocol of phases."""
        return self.inner.step(arrays, config, site)
