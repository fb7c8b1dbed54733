"""The server's audit log: a line that cannot be written is said aloud, and nothing else stops."""

from collections.abc import Mapping

import structlog

from hanse.core.errors import StorageError
from hanse.trust.audit import AuditLog

log = structlog.get_logger("hanse.server")


class Audit:
    """The lines of one log."""

    def __init__(self, lines: AuditLog) -> None:
        self._lines = lines

    def line(
        self, actor: str, action: str, subject: str, outcome: str, details: Mapping[str, str] | None = None
    ) -> None:
        """Write one."""
        try:
            self._lines.append(actor=actor, action=action, subject=subject, outcome=outcome, details=details)
        except StorageError as error:
            log.error("audit line lost", action=action, reason=str(error))

    def head(self) -> str:
        """The signed end of the log, which an auditor keeps."""
        return self._lines.export_head().decode()

    def close(self) -> None:
        """Nothing is written any more."""
        self._lines.close()
