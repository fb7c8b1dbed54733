"""`hs.ask`: a question of `hs.analytics` goes to virtual sites or to a federation, and its answer comes back."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanse.analytics import Answer, Question
from hanse.clients.app import App
from hanse.clients.loader import find_app
from hanse.core.errors import ConfigError
from hanse.person.federation import Federation
from hanse.person.jobs import submit
from hanse.simulation.simulate import simulate


def ask(
    where: "Mapping[str, Any] | str | Path | Federation",
    question: Question,
    *,
    sites: Sequence[str] | None = None,
    quorum: int | None = None,
    deadline_s: float = 3600.0,
    name: str = "",
) -> Answer:
    """Ask every site, and wait for the answer.

    Args:
        where: a mapping of site → data sets (in this process), or a federation: `federation.yaml` or one loaded.
        question: such as `hs.analytics.Describe(["age"], data="patients", by="sex")`.
        sites: only these; None for all.
        quorum: sites that must answer; None for all that were asked.
        deadline_s: seconds until a phase closes with what it has.
        name: shown in listings of jobs; by default the question's kind.

    Raises:
        ConfigError: something that is no question, or a wrong argument. JobFailed: there is no answer, and why.

    Example:
        >>> import numpy as np
        >>> import hanse as hs
        >>> sites = {"a": {"rows": {"x": np.arange(20.0)}}, "b": {"rows": {"x": np.arange(20.0)}}}
        >>> hs.ask(sites, hs.analytics.Describe("x", data="rows", order=False)).to_rows()[0]["mean"]
        9.5
    """
    if not isinstance(question, Question):
        raise ConfigError(
            f"ask: expected a question such as hs.analytics.Describe(...), found {type(question).__name__}"
        )
    if isinstance(where, Mapping):
        unknown = [site for site in sites or () if site not in where]
        if unknown:
            raise ConfigError(f"sites: expected names among {', '.join(where)}; found {unknown[0]!r}")
        chosen = {site: data for site, data in where.items() if sites is None or site in sites}
        app = App(question, quorum=quorum, deadline_s=deadline_s)
        return question.answer(simulate(app, chosen, progress=False).arrays)
    with tempfile.TemporaryDirectory() as folder:  # the app travels as any other; sites need not look at it
        file = Path(folder) / "question.py"
        file.write_text(app_text(question, quorum=quorum, deadline_s=deadline_s), encoding="utf-8")
        job = submit(find_app(file), where, name=name or question.kind, sites=sites)
    return question.answer(job.result().arrays)


def app_text(question: Question, *, quorum: int | None = None, deadline_s: float = 3600.0) -> str:
    """A question as an app: the module that is submitted, and that an owner may read before allowing its hash."""
    return (
        f'"""Asks a question of hanse.analytics: {question.kind}. No code of its own runs at a site."""\n\n'
        "import hanse as hs\n\n"
        f"app = hs.App(\n    hs.analytics.{question!r},\n    quorum={quorum!r},\n    deadline_s={deadline_s!r},\n)\n"
    )
