"""How a process's log looks: `key=value` lines on standard error, or JSON lines with HANSE_LOG=json. Never data."""

import os
import sys
from typing import Any

# structlog imports rich, where installed, for coloured tracebacks that nobody prints here: a fifth of a site's start.
_without_rich = sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
import structlog  # noqa: E402 - only now

if _without_rich is None:
    del sys.modules["rich"]


class _StandardError:
    """Standard error as it is when a line is written, not as it was when logging was set up."""

    def write(self, text: str) -> None:
        """Write."""
        sys.stderr.write(text)

    def flush(self) -> None:
        """Flush."""
        sys.stderr.flush()


def configure(name: str, *, verbose: bool = False) -> Any:
    """Set up structured logging for this process; returns the logger of this name."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if os.environ.get("HANSE_LOG") == "json":
        last: Any = structlog.processors.JSONRenderer()
    else:
        last = structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event"), bool_as_flag=False)
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(10 if verbose else 20),
        logger_factory=structlog.PrintLoggerFactory(_StandardError()),  # type: ignore[arg-type]  # write and flush do
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger(name)
