"""Why a reduction gives no result. Every class is an `UpdateError` of the one tree in `hanse.core.errors`.

    UpdateError
    ├── UpdatesRefused    some updates do not fit or are not finite: position → reason; the others may be reduced again
    ├── EmptyCohort       there is nothing to reduce
    ├── ZeroWeight        every weight is zero, so a mean is not defined
    └── Overflow          every update is finite, but their sum or the rounded result is not

Messages name positions, arrays and weights' signs, never values.
"""

from collections.abc import Mapping

from hanse.core.errors import UpdateError


class UpdatesRefused(UpdateError):
    """Some updates cannot be reduced.

    Args:
        reasons: for each refused update its position in the plan → the reason. All culprits of one pass are
            named, so that reducing the others needs no third pass.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        self.reasons = dict(sorted(reasons.items()))
        named = "; ".join(f"position {position}: {reason}" for position, reason in list(self.reasons.items())[:8])
        more = f" and {len(self.reasons) - 8} more" if len(self.reasons) > 8 else ""
        super().__init__(f"{len(self.reasons)} update(s) refused: {named}{more}; reduce again without them")


class EmptyCohort(UpdateError):
    """There is no update to reduce."""

    def __init__(self) -> None:
        super().__init__("expected at least one update, found none; keep the model or fail the round")


class ZeroWeight(UpdateError):
    """All weights are zero."""

    def __init__(self) -> None:
        super().__init__(
            "expected a total weight > 0, found 0 over all updates; a site without examples should not be in the cohort"
        )


class Overflow(UpdateError):
    """A sum, a quotient or the rounded result leaves its dtype though every update is finite."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} of {where} leaves its range though every update is finite; lower weights or rates")
