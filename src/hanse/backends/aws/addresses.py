"""Which links are followed: those to AWS, or to an emulator of it, and to nowhere else."""

from urllib.parse import urlsplit

_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


def is_storage(url: str, endpoint: str = "") -> bool:
    """Whether a link is one that AWS, or an emulator, can have been asked to sign.

    Whoever writes links must not send this machine to its own files, nor to addresses within its own network.

    Args:
        endpoint: of an emulator: links may go there too, and be plain HTTP if it is.
    """
    try:
        parts = urlsplit(url)
        own = urlsplit(endpoint) if endpoint else None
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if "\\" in url or parts.username is not None:  # read as another host by some
        return False
    if parts.scheme == "https" and port in (None, 443) and host.endswith(_AWS_HOSTS):
        return True
    if own is None or parts.scheme not in ("https", own.scheme):
        return False
    # An emulator's functions may know it under another of this machine's names.
    return host == own.hostname or (host in _THIS_MACHINE and own.hostname in _THIS_MACHINE)
