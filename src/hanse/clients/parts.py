"""Which half of a strategy its sites do: the client that a task is executed with, given the app's own."""

from hanse.clients.client import Client, arrays_of
from hanse.clients.corrections import Controlled, Dynamic
from hanse.clients.personal import Choosing, Home, Personal, Remembering, Tuned
from hanse.clients.site import Site
from hanse.core.arrays import Arrays
from hanse.core.errors import TaskError
from hanse.strategies import Strategy
from hanse.strategies.at_home import AtHome
from hanse.strategies.ditto import Ditto
from hanse.strategies.feddyn import FedDyn
from hanse.strategies.finetune import FineTune
from hanse.strategies.ifca import IFCA
from hanse.strategies.moon import Moon
from hanse.strategies.scaffold import Scaffold


def with_part(client: Client, strategy: Strategy | None, site: Site, given: Arrays | None) -> Client:
    """The client, with the site's half of the strategy around it where it has one.

    Called where clients are made, before any task: what a client makes of itself then is the same in every worker.

    Args:
        given: the whole initial model, if the app has one.
    """
    if isinstance(strategy, AtHome) and isinstance(strategy, Scaffold | FedDyn):
        raise TaskError("refused", f"{type(strategy).__name__}: arrays at home do not go with SCAFFOLD or FedDyn")
    match strategy:
        case Scaffold():
            return Controlled(client, strategy)
        case FedDyn():
            return Dynamic(client)
        case AtHome():
            start = given if given is not None else arrays_of(client.parameters({}, site), "parameters", None)
            return Home(client, strategy, start)
        case Ditto():
            return Personal(client, strategy)
        case FineTune():
            return Tuned(client)
        case IFCA():
            return Choosing(client, strategy.initial)
        case Moon():
            return Remembering(client)
    return client
