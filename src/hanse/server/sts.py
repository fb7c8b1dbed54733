"""The one call that the server makes to AWS: a site's signed GetCallerIdentity, passed on to STS."""

import urllib.error
import urllib.request
from collections.abc import Mapping

from hanse.core.errors import UnavailableError

TIMEOUT_S = 10.0
LARGEST = 8192


class _Nowhere(urllib.request.HTTPRedirectHandler):
    """Follows nobody: headers that STS is to see are for STS."""

    def redirect_request(self, *_: object) -> None:
        """See the base."""


def post(address: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
    """Send a POST.

    Returns:
        Status and body, whatever the status.

    Raises:
        UnavailableError: nobody answers.
    """
    request = urllib.request.Request(address, body, dict(headers), method="POST")
    try:
        with urllib.request.build_opener(_Nowhere).open(request, timeout=TIMEOUT_S) as answer:
            return int(answer.status), answer.read(LARGEST)
    except urllib.error.HTTPError as error:
        return error.code, error.read(LARGEST)
    except OSError as error:
        raise UnavailableError(f"joining by AWS identity: STS cannot be reached from the server: {error}") from None
