"""One of the other processes of a site's training, `python -m hanse.clients.data_parallel_process FD`.

Started by `data_parallel.py`, which says why. It loads the function that makes the module as the first process did,
from the app's own file, and does what that one does on its own shares, until the pipe to it is closed.
"""

import contextlib
import importlib
import json
import operator
import signal
import sys
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hanse.clients.data_parallel import meet
from hanse.clients.delayed import work
from hanse.clients.dropout import Masks
from hanse.clients.failures import text_of
from hanse.clients.flat import FlatModule
from hanse.clients.loader import import_file
from hanse.clients.tensors import imported
from hanse.clients.threads import set_threads
from hanse.clients.training import SGD, Adam, Effort, Training
from hanse.core.arrays import Arrays
from hanse.core.codec import decode
from hanse.core.seeds import seed_globals

_OPTIMIZERS = {"SGD": SGD, "Adam": Adam}


def main(link: Connection) -> None:
    """Train shares until nobody asks for more."""
    load = json.loads(link.recv_bytes())
    try:
        set_threads(load["threads"])
        module = _made(load)
    except Exception as error:  # the top of a process: the first one says it
        link.send_bytes(f"cannot load the module: {text_of(error).splitlines()[-1][:200]}".encode())
        return
    link.send_bytes(b"loaded")
    share = meet(load["store"], load["rank"], load["count"])
    flat = FlatModule(module)
    data: dict[int, tuple[Any, Any]] = {}
    torch = imported()
    while True:
        facts = json.loads(link.recv_bytes())
        given = decode(link.recv_bytes())
        number = facts["number"]
        if "X" in given:
            data[number] = tuple(torch.from_numpy(given[part].copy()) for part in "Xy")
        data = {kept: pair for kept, pair in data.items() if kept in facts["keep"]}
        optimizer = _OPTIMIZERS[facts["kind"]](**facts["optimizer"])
        training = Training(facts["loss"], optimizer, facts["epochs"], facts["batch_size"])
        corrections = {
            name.removeprefix("correction/"): given[name] for name in given if name.startswith("correction/")
        }
        frozen = tuple(facts["frozen"])
        effort = Effort(facts["lr"], facts["epochs"], facts["proximal_mu"], corrections, (), frozen)
        model = Arrays((name[6:], array) for name, array in given.items() if name.startswith("model/"))
        flat.load(model, None)
        seed_globals(facts["key"] ^ load["rank"])
        masks = Masks(partial(operator.xor, facts["key"], load["rank"]))
        trainer, order = flat.trainer(module, training), given["order"].copy()
        if facts["asynchronous"]:
            work(trainer, module, *data[number], order, effort, masks, link, rank=load["rank"], count=load["count"])
        else:
            trainer.train(module, *data[number], order, effort, masks, share)


def _made(load: dict[str, Any]) -> Any:
    if "file" in load:
        path = Path(load["file"])
        holder: Any = import_file(path.parent, path.name)
    else:
        holder = importlib.import_module(load["module"])
    return getattr(holder, load["name"])()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C ends the first process, and that ends us
    with contextlib.suppress(EOFError, ConnectionResetError):
        main(Connection(int(sys.argv[1])))
