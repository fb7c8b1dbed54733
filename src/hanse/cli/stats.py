"""`hanse stats …`: a question of `hs.analytics` to the sites of a federation, and its answer as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanse.cli.options import FEDERATION, Federation, Json
from hanse.cli.output import note, say, show_json
from hanse.core.errors import ConfigError

if TYPE_CHECKING:
    from hanse.analytics import Question

Data = Annotated[str, typer.Option(help="The data set's name at the sites.")]
Columns = Annotated[list[str], typer.Argument(help="Columns of the data set.")]
Column = Annotated[str, typer.Argument(help="A column of the data set.")]
By = Annotated[str, typer.Option(help="Apart for each value of this column.")]
MinGroup = Annotated[int, typer.Option(help="Rows of a site that every number it tells must stand for.")]
MinSites = Annotated[int, typer.Option(help="Sites that every number of the answer must stand for.")]
Site = Annotated[list[str] | None, typer.Option(help="Ask this site only; may be given several times.")]
Quorum = Annotated[int | None, typer.Option(help="Sites that must answer; by default all that are asked.")]
Report = Annotated[Path | None, typer.Option(help="Where to write the answer as an HTML page.")]

GROUP, SITES = 10, 1


def describe(
    columns: Columns,
    data: Data,
    by: By = "",
    order: Annotated[bool, typer.Option(help="Quartiles and extremes too, which takes eight more phases.")] = True,
    min_group: MinGroup = GROUP,
    min_sites: MinSites = SITES,
    site: Site = None,
    quorum: Quorum = None,
    federation: Federation = FEDERATION,
    report: Report = None,
    json: Json = False,
) -> None:
    """Count, missing values, mean, standard deviation and quartiles of columns."""
    from hanse.analytics import Describe

    question = Describe(columns, order, data=data, by=by, min_group=min_group, min_sites=min_sites)
    _ask(question, federation, site, quorum, report, json)


def quantiles(
    columns: Columns,
    data: Data,
    q: Annotated[list[float] | None, typer.Option(help="A level from 0 to 1; may be given several times.")] = None,
    by: By = "",
    min_group: MinGroup = GROUP,
    min_sites: MinSites = SITES,
    site: Site = None,
    quorum: Quorum = None,
    federation: Federation = FEDERATION,
    report: Report = None,
    json: Json = False,
) -> None:
    """Quantiles of columns, by default the quartiles."""
    from hanse.analytics import Quantiles

    levels = q or [0.25, 0.5, 0.75]
    question = Quantiles(columns, levels, data=data, by=by, min_group=min_group, min_sites=min_sites)
    _ask(question, federation, site, quorum, report, json)


def histogram(
    column: Column,
    data: Data,
    edges: Annotated[str, typer.Option(help="Edges of the bins, such as 0,40,60,80.")],
    by: By = "",
    min_group: MinGroup = GROUP,
    min_sites: MinSites = SITES,
    site: Site = None,
    quorum: Quorum = None,
    federation: Federation = FEDERATION,
    report: Report = None,
    json: Json = False,
) -> None:
    """How many rows have values between edges."""
    from hanse.analytics import Histogram

    question = Histogram(column, _numbers(edges), data=data, by=by, min_group=min_group, min_sites=min_sites)
    _ask(question, federation, site, quorum, report, json)


def correlation(
    columns: Columns,
    data: Data,
    min_group: MinGroup = GROUP,
    min_sites: MinSites = SITES,
    site: Site = None,
    quorum: Quorum = None,
    federation: Federation = FEDERATION,
    report: Report = None,
    json: Json = False,
) -> None:
    """Pearson's correlation of columns, of rows in which all of them are known."""
    from hanse.analytics import Correlation

    question = Correlation(columns, data=data, min_group=min_group, min_sites=min_sites)
    _ask(question, federation, site, quorum, report, json)


def crosstab(
    rows: Annotated[str, typer.Argument(help="The column whose values are the table's rows.")],
    columns: Annotated[str, typer.Argument(help="The column whose values are its columns.")],
    data: Data,
    min_group: MinGroup = GROUP,
    min_sites: MinSites = SITES,
    site: Site = None,
    quorum: Quorum = None,
    federation: Federation = FEDERATION,
    report: Report = None,
    json: Json = False,
) -> None:
    """How many rows have each pair of values, with a χ² test."""
    from hanse.analytics import Crosstab

    question = Crosstab(rows, columns, data=data, min_group=min_group, min_sites=min_sites)
    _ask(question, federation, site, quorum, report, json)


def top(
    column: Column,
    data: Data,
    number: Annotated[int, typer.Option(help="How many values.")] = 10,
    min_group: MinGroup = GROUP,
    min_sites: MinSites = SITES,
    site: Site = None,
    quorum: Quorum = None,
    federation: Federation = FEDERATION,
    report: Report = None,
    json: Json = False,
) -> None:
    """The most frequent values of a column."""
    from hanse.analytics import TopK

    question = TopK(column, number, data=data, min_group=min_group, min_sites=min_sites)
    _ask(question, federation, site, quorum, report, json)


def survival(
    time: Annotated[str, typer.Argument(help="The column with times.")],
    event: Annotated[str, typer.Argument(help="The column that is 1 where the event happened then, 0 where not.")],
    data: Data,
    by: By = "",
    unit: Annotated[float, typer.Option(help="Round times up to multiples of this.")] = 0.0,
    min_group: MinGroup = GROUP,
    min_sites: MinSites = SITES,
    site: Site = None,
    quorum: Quorum = None,
    federation: Federation = FEDERATION,
    report: Report = None,
    json: Json = False,
) -> None:
    """Kaplan and Meier's curves, and the log-rank test between groups."""
    from hanse.analytics import Survival

    question = Survival(time, event, unit, data=data, by=by, min_group=min_group, min_sites=min_sites)
    _ask(question, federation, site, quorum, report, json)


def _ask(
    question: "Question",
    federation: Path,
    sites: Sequence[str] | None,
    quorum: int | None,
    report: Path | None,
    json: bool,
) -> None:
    from hanse.person.questions import ask

    answer = ask(federation, question, sites=sites or None, quorum=quorum)
    if json:
        show_json(answer.to_json())
    else:
        say(str(answer))
    if report is not None:
        note(f"report  {answer.report(report)}")


def _numbers(text: str) -> list[Any]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--edges: expected numbers with commas between them, found {text[:60]!r}") from None
