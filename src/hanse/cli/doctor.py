"""`hanse doctor`: looks at a member's folder and machine as the member itself would, and says what to do."""

import asyncio
import os
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.cli.options import HERE, Directory, Json
from hanse.cli.output import clean, day, say, show_json
from hanse.core.errors import ConfigError, HanseError, PolicyError, TrustError, UnavailableError

if TYPE_CHECKING:
    from hanse.trust.membership import Membership

OK, WARN, WRONG = "ok", "warning", "wrong"
_MARKS = {OK: "✓", WARN: "!", WRONG: "✗"}
_DAY_MS = 24 * 60 * 60 * 1000
_PACKAGES = ("blake3", "cryptography", "grpcio", "ml-dtypes", "numpy", "protobuf", "PyYAML", "safetensors")
_WHAT = "expected a server's folder (server.yaml), a site's (site.yaml) or a person's (federation.yaml)"
_REACH_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `do`: what to do if it is not ok."""

    about: str
    state: str
    found: str
    do: str = ""


Findings = Iterator[Finding]


def doctor(directory: Directory = HERE, json: Json = False) -> int:
    """Look for what is wrong with a server's, a site's or a person's folder, and with this machine.

    Checked: Python and packages, disk space, permissions, certificates and clock, settings, ports, the way to the
    server, isolation of workers, data sets. Nothing is changed. The exit code is 1 if something is wrong.
    """
    kind = kind_of(directory)
    findings = [*_machine(directory), *_member_checks(kind, directory)]
    wrong = sum(each.state == WRONG for each in findings)
    if json:
        show_json({"directory": str(directory), "kind": kind, "ok": not wrong, "checks": [asdict(f) for f in findings]})
        return 1 if wrong else 0
    say(f"{directory.absolute()} is a {kind}'s folder.")
    width = max(len(each.about) for each in findings)
    for each in findings:
        say(f" {_MARKS[each.state]} {each.about.ljust(width)}  {each.found}")
        if each.state != OK and each.do:
            say(f"   {''.ljust(width)}  → {each.do}")
    say("Nothing is wrong." if not wrong else f"{wrong} thing{'' if wrong == 1 else 's'} wrong.")
    return 1 if wrong else 0


def kind_of(directory: Path) -> str:
    """server, site or person.

    Raises:
        ConfigError: none of them.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: {_WHAT}, found no such folder")
    for file, kind in (("server.yaml", "server"), ("federation.yaml", "person"), ("site.yaml", "site")):
        if (directory / file).exists():
            return kind
    if (directory / "membership.json").exists():
        return "site"
    raise ConfigError(f"{directory}: {_WHAT}, found none of these")


def _member_checks(kind: str, directory: Path) -> Findings:
    checks = {"server": _server, "site": _site, "person": _person}
    yield from checks[kind](directory)


# ---- the machine ----


def _machine(directory: Path) -> Findings:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info >= (3, 11)
    yield Finding("python", OK if fits else WRONG, f"{version} ({sys.executable})", "install Python 3.11 or newer")
    yield _packages()
    yield _disk(directory)


def _packages() -> Finding:
    found, missing = [f"hanse {_version('hanse')}"], []
    for name in _PACKAGES:
        version = _version(name)
        found.append(f"{name} {version}")
        if not version:
            missing.append(name)
    protobuf = _version("protobuf").split(".")
    if protobuf[0].isdigit() and not (6, 31) <= tuple(int(part) for part in protobuf[:2]) < (8, 0):
        return Finding(
            "packages",
            WRONG,
            f"protobuf {'.'.join(protobuf)}; expected 6.31.1 to 7",
            "pip install 'protobuf>=6.31.1,<8'",
        )
    if missing:
        return Finding("packages", WRONG, f"missing: {', '.join(missing)}", "pip install hanse")
    return Finding("packages", OK, ", ".join(found))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _disk(directory: Path) -> Finding:
    free = shutil.disk_usage(directory).free
    text = f"{free / 1e9:.1f} GB free"
    state = WRONG if free < 100e6 else WARN if free < 2e9 else OK
    if not os.access(directory, os.W_OK):
        return Finding("disk", WRONG, "the folder cannot be written", f"chown it to {os.getuid()}, or run as its owner")
    return Finding(
        "disk", state, text, "make room: a round needs a model for each site beside the last two checkpoints"
    )


# ---- what every member has ----


def _identity(directory: Path, *, rejoin: str) -> Iterator[Finding]:
    """Keys, certificate, clock, authority; the last finding says whether the membership can be used."""
    yield _permissions(directory)
    try:
        member = _membership(directory)
    except TrustError as error:
        yield Finding("certificate", WRONG, clean(str(error)), f"check this machine's clock ({_now()}); then {rejoin}")
        return
    except HanseError as error:
        yield Finding("membership", WRONG, clean(str(error)), rejoin)
        return
    left = (member.identity.not_after_ms - _now_ms()) / _DAY_MS
    found = f"{member.identity}, until {day(member.identity.not_after_ms)} ({left:.0f} days)"
    state = WARN if left < 5 else OK
    yield Finding("certificate", state, found, "let the member run, it renews by itself; or " + rejoin)
    behind = member.record.issued_at_ms - _now_ms()
    clock = Finding("clock", OK, f"{_now()}, after the certificate was issued")
    if behind > 60_000:
        clock = Finding("clock", WRONG, f"{_now()}, before the certificate was issued", "set the clock; use NTP")
    yield clock
    from hanse.trust.certificates import fingerprint

    yield Finding("authority", OK, f"SHA-256 {fingerprint(member.authority_pem).hex()}")


def _permissions(directory: Path) -> Finding:
    keys = directory / "keys"
    if not keys.is_dir():
        return Finding("keys", WRONG, f"no {keys}", "join again, or restore the folder from a backup")
    open_ = [path for path in (keys, *keys.iterdir()) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_:
        names = " ".join(str(path) for path in open_)
        return Finding("keys", WRONG, f"others may read {names}", f"chmod go-rwx {names}")
    unreadable = [path.name for path in keys.iterdir() if not os.access(path, os.R_OK)]
    if unreadable:
        return Finding("keys", WRONG, f"cannot be read: {', '.join(unreadable)}", "run as the owner of the folder")
    return Finding("keys", OK, "only the owner can read them")


def _membership(directory: Path) -> "Membership":
    from hanse.trust.membership import Membership

    return Membership.load(directory)


def _reach(address: str, directory: Path) -> Findings:
    """The way to the server, step by step: name, port, TLS, the federation's authority, and whether it lets us in."""
    from hanse.backends.grpc.enrol import shown_chain
    from hanse.trust.certificates import fingerprint

    host, _, port = address.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, ValueError):
        yield Finding("server", WRONG, f"{address}: the name cannot be resolved", "check the address and DNS")
        return
    try:
        chain = shown_chain(address, timeout_s=_REACH_S)
    except UnavailableError as error:
        do = "is `hanse server start` running, and is the port open from here? a firewall may be between"
        yield Finding("server", WRONG, clean(str(error)), do)
        return
    except TrustError as error:
        yield Finding("server", WRONG, clean(str(error)), "something else listens there; check the port")
        return
    try:
        member = _membership(directory)
    except HanseError:
        yield Finding("server", OK, f"{address} answers")
        return
    mine = fingerprint(member.authority_pem)
    if all(fingerprint(each) != mine for each in chain):
        yield Finding("server", WRONG, f"{address} belongs to another authority", "check the address; or join again")
        return
    yield Finding("server", OK, f"{address} answers, and shows our authority")
    yield asyncio.run(_admitted(address, member))


async def _admitted(address: str, member: "Membership") -> Finding:
    """Whether the server takes our certificate: any answer but a doubt about who we are says so."""
    from hanse.backends.grpc.client import Connection, Credentials
    from hanse.core.proto import hanse_pb2 as pb

    connection = Connection(address, Credentials(member.certificate_pem, member.keys.tls_pem(), member.authority_pem))
    who = str(member.identity)
    try:
        await connection.ask(pb.Call(v=1, body=b'{"op": "sites"}'), timeout_s=_REACH_S)
    except PolicyError:
        pass  # sites may not ask that, but were let in
    except TrustError as error:
        return Finding("admission", WRONG, clean(str(error)), "ask the operator for a new token and join again")
    except HanseError as error:
        return Finding("admission", WRONG, clean(str(error)), "see the server's log")
    finally:
        await connection.close()
    return Finding("admission", OK, f"the server lets {who} in")


# ---- each kind ----


def _server(directory: Path) -> Findings:
    from hanse.server.config import ServerConfig

    try:
        config = ServerConfig.load(directory)
    except HanseError as error:
        yield Finding("server.yaml", WRONG, clean(str(error)), "correct the file")
        return
    yield Finding(
        "server.yaml", OK, f"federation {config.federation}, {config.address}, durability {config.durability}"
    )
    yield from _identity(directory / "server", rejoin="make the server's certificate anew with the authority")
    yield from _authority(directory, config.hosts)
    ports = [("port", config.port), ("enrolment_port", config.enrolment_port), ("http_port", config.http_port)]
    running = _is_running(directory)
    for name, port in ports:
        if port:
            yield _port(name, "127.0.0.1" if name == "http_port" else config.listen, port, running)


def _authority(directory: Path, hosts: Iterable[str]) -> Findings:
    from hanse.server.members import directory_of
    from hanse.trust.authority import Authority
    from hanse.trust.certificates import load_certificate

    place = directory_of(directory)
    try:
        authority = Authority.load(place)
        member = _membership(directory / "server")
    except HanseError as error:
        yield Finding("authority.key", WRONG, clean(str(error)), f"restore {place} from a backup")
        return
    if authority.certificate_pem != member.authority_pem:
        yield Finding("authority.key", WRONG, "not the authority that certified the server", f"restore {place}")
        return
    yield Finding("authority.key", OK, "fits the server's certificate")
    from cryptography import x509

    names = load_certificate(member.certificate_pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    known = {str(each.value) for each in names.value}
    absent = [host for host in hosts if host not in known]
    if absent:
        do = "members will not trust the server under these names; take them out, or make a federation with --host"
        yield Finding("hosts", WRONG, f"not in the server's certificate: {', '.join(absent)}", do)
    else:
        yield Finding("hosts", OK, ", ".join(hosts))


def _is_running(directory: Path) -> bool:
    """Whether a server holds the store's lock."""
    import fcntl

    try:
        with (directory / "store" / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _port(name: str, host: str, port: int, running: bool) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host.strip("[]"), port))
        except PermissionError:
            return Finding(name, WRONG, f"{port}: this user may not bind it", "choose one above 1023 in server.yaml")
        except OSError as error:
            if running:
                return Finding(name, OK, f"{port}: the server is running")
            do = "choose another in server.yaml, or stop what is there"
            return Finding(name, WRONG, f"{host}:{port}: {error.strerror}; no server of this folder runs", do)
    if running:
        return Finding(name, WARN, f"{port}: free, though the server is running", "restart it: server.yaml has changed")
    return Finding(name, OK, f"{port}: free")


def _site(directory: Path) -> Findings:
    from hanse.site.config import FILE, SiteConfig, read_config
    from hanse.site.policy import FILE as POLICY
    from hanse.site.policy import read_policy

    yield from _identity(directory, rejoin="ask the operator for a new token and join in a new folder")
    config = SiteConfig()
    try:
        config = read_config(directory / FILE)
        yield Finding(FILE, OK, f"{_counted(len(config.datasets), 'data set')}, isolation {config.isolation.level}")
    except HanseError as error:
        yield Finding(FILE, WRONG, clean(str(error)), "correct the file")
    try:
        policy = read_policy(directory / POLICY)
        if policy is None:
            yield Finding(POLICY, WARN, "missing or empty: nothing may run here", "say what may run; see the how-to")
        else:
            apps = "any app" if policy.apps is None else f"{_counted(len(policy.apps), 'app')} listed"
            yield Finding(POLICY, OK, f"{apps}, others: {policy.unlisted_apps}")
    except HanseError as error:
        yield Finding(POLICY, WRONG, clean(str(error)), "correct the file; until then every job is refused")
    for name, declaration in config.datasets.items():
        yield _data_set(name, declaration, directory)
    if not config.datasets:
        yield Finding("data sets", WARN, "none declared", f"declare them in {directory / FILE}")
    yield _isolation(config.isolation.level)
    yield _agent(directory)
    address = config.server or _guarded(lambda: _membership(directory).address)
    if address:
        yield from _reach(address, directory)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _data_set(name: str, declaration: Any, directory: Path) -> Finding:
    from hanse.workers.datasets import check_columns, check_declaration, paths_of

    about = f"data set {name}"
    try:
        paths = paths_of(check_declaration(name, declaration), directory)
    except HanseError as error:
        return Finding(about, WRONG, clean(str(error)), "correct site.yaml")
    for path in paths:
        if not path.exists():
            return Finding(
                about, WRONG, f"{path}: no such file", "correct the path in site.yaml, or put the file there"
            )
        if not os.access(path, os.R_OK):
            return Finding(
                about, WRONG, f"{path}: cannot be read by this user", f"chmod u+r {path}, or run as its owner"
            )
    try:
        check_columns(name, declaration, directory)
    except HanseError as error:
        return Finding(about, WRONG, clean(str(error)), "correct site.yaml, or the file")
    return Finding(about, OK, f"{declaration['kind']}, {paths[0]}, {paths[0].stat().st_size / 1e6:.1f} MB")


def _isolation(wanted: str) -> Finding:
    from hanse.workers.isolation import available

    levels = available()
    text = "; ".join(level.name if level.available else f"not {level.name} ({level.reason})" for level in levels)
    missing = next((level for level in levels if level.name == wanted and not level.available), None)
    if missing is not None:
        return Finding(
            "isolation", WRONG, f"{wanted} is not available: {missing.reason}", "choose another in site.yaml"
        )
    return Finding("isolation", OK, text)


def _agent(directory: Path) -> Finding:
    from hanse.site.control import request

    try:
        status = request(directory, {"op": "status"})
    except HanseError:
        return Finding("agent", WARN, "not running", f"hanse site start --directory {directory}")
    if status["connected"]:
        return Finding("agent", OK, f"running (pid {status['pid']}), connected")
    reason = clean(str(status.get("last_error") or "no reason known"))
    return Finding("agent", WRONG, f"running (pid {status['pid']}), not connected: {reason}", "see the lines below")


def _person(directory: Path) -> Findings:
    from hanse.person.federation import Federation

    yield from _identity(directory, rejoin="ask an admin: hanse person add; then hanse person join")
    try:
        federation = Federation.load(directory)
    except HanseError as error:
        yield Finding("federation.yaml", WRONG, clean(str(error)), "correct the file")
        return
    yield Finding("federation.yaml", OK, f"federation {federation.name} at {federation.address}")
    yield from _reach(federation.address, directory)


def _guarded(read: Callable[[], str]) -> str:
    try:
        return read()
    except HanseError:
        return ""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
