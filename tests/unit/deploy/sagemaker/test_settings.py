"""The file of `hanse deploy sagemaker`: what is wrong in it is one line that names the place; records; launches."""

import copy
import functools
import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hanse.clients.app import App
from hanse.core.errors import ConfigError, UnavailableError
from hanse.core.ids import check_job_owner, new_job_id
from hanse.deploy.sagemaker import launch
from hanse.deploy.sagemaker.entry import Ends, Told, prepare
from hanse.deploy.sagemaker.jobs import JobState
from hanse.deploy.sagemaker.launch import Launcher
from hanse.deploy.sagemaker.queues import reached, way_of
from hanse.deploy.sagemaker.record import Launched, begin, noted, read_record, write_record
from hanse.deploy.sagemaker.request import training_job
from hanse.deploy.sagemaker.server import _check_identities, _write_identities, identities_of
from hanse.deploy.sagemaker.settings import Account, Settings, read_settings
from hanse.server.config import ServerConfig
from tests.patience import WAIT_S

EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "medicare_fraud" / "sagemaker"


def changed(tmp_path: Path, *keys: str, to: Any) -> Path:
    value = yaml.safe_load((EXAMPLE / "federation.yaml").read_text())
    place = value
    for key in keys[:-1]:
        place = place[key]
    if to is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    path = tmp_path / "federation.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


@pytest.mark.parametrize("taken_out", [True, False])
def test_an_account_that_is_taken_out_may_not_join_any_more(tmp_path: Path, taken_out: bool) -> None:
    settings = read_settings(EXAMPLE / "federation.yaml")
    settings = replace(settings, server=replace(settings.server, directory=tmp_path))
    ServerConfig(federation="f", aws_identities=identities_of(settings)).save(tmp_path)
    accounts = settings.accounts[1:] if taken_out else settings.accounts
    settings = replace(settings, accounts=accounts)
    if taken_out:
        with pytest.raises(ConfigError, match=r"server.yaml: aws_identities: found north, .* restart"):
            _check_identities(settings, "restart")
    _write_identities(settings)
    _check_identities(settings, "restart")
    assert set(ServerConfig.load(tmp_path).aws_identities) == {account.site for account in accounts}


def test_the_example_is_read() -> None:
    settings = read_settings(EXAMPLE / "federation.yaml")
    assert [account.site for account in settings.accounts] == ["north", "east", "south"]
    assert settings.accounts[0].kickoff_arn == "arn:aws:iam::111111111111:role/FL-kickoff-client-job"
    assert settings.accounts[0].instance == "ml.m5.xlarge"
    assert settings.server.datasets["test"]["path"] == str(EXAMPLE / "data" / "test.csv")


@pytest.mark.parametrize(
    ("keys", "to", "named"),
    [
        (("federation",), None, "federation.yaml: expected federation, found it missing"),
        (("federation",), "Med Care", "federation: expected 1 to 63 characters"),
        (("accounts",), {}, "accounts: expected at least one site"),
        (("accounts", "north"), {"role": "x"}, "accounts.north: 'role' is not a setting"),
        (("accounts", "north", "account"), 111, "accounts.north.account: expected a text of one line, found 111"),
        (("accounts", "north", "account"), "12", "accounts.north.account: expected 12 digits"),
        (("accounts", "north", "external_id"), None, "accounts.north: expected external_id"),
        (("accounts", "north", "code"), "code.tar.gz", "accounts.north.code: expected an s3:// address"),
        (("accounts", "north", "channels"), {"train": "/data"}, "accounts.north.train: expected an s3:// address"),
        (("accounts", "north", "spot"), True, "accounts.north.spot: expected checkpoints"),
        (("accounts", "north", "subnets"), "subnet-1", "accounts.north.subnets: expected a list of ids"),
        (("defaults", "volume_gb"), 0, "volume_gb: expected a whole number above 0"),
        (("defaults", "kickoff_role"), "a/b c", "kickoff_role: expected a role's name"),
        (("server", "address"), None, "server: expected address"),
        (("server", "address"), "8.8.8.8", "server.address: expected a private address"),
        (("server", "port"), "7400", "server.port: expected a port"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, keys: tuple[str, ...], to: Any, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(changed(tmp_path, *keys, to=to))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


ODD = (0, True, float("nan"), [], [None], {1: 2}, {"a": 1}, "", "a\nb", "../..", "ä" * 300)


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, item in value.items() if isinstance(value, dict) else ():
        if key not in ("east", "south"):  # as north
            yield (*path, key)
            yield from places(item, (*path, key))


@pytest.mark.parametrize("local", [False, True])
def test_whatever_stands_at_any_place_is_read_or_refused_by_one_line(
    tmp_path: Path, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    whole = yaml.safe_load((EXAMPLE / "federation.yaml").read_text())
    whole["server"]["tracking"] = {"kind": "mlflow", "uri": "http://127.0.0.1:5000", "params": {"device": "cpu"}}
    for keys, odd in itertools.product(places(whole), ODD):
        value = copy.deepcopy(whole)
        place = functools.reduce(lambda part, key: part[key], keys[:-1], value)
        place[keys[-1]] = odd
        monkeypatch.setattr("hanse.deploy.sagemaker.settings.read_yaml", lambda path, value=value: value)
        try:
            settings = read_settings(tmp_path / "federation.yaml", local=local)
            for account in settings.accounts:
                told = Told(settings.federation, account.site, "s:1", "s:2", "ab", "identity")
                json.dumps(training_job(settings, account, "run", 1, told))
        except ConfigError as error:
            said.append(str(error))
    assert len(said) > 200
    assert not [line for line in said if "\n" in line]


def test_local_needs_folders_and_no_account(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"accounts\.east\.local: code: expected something at"):
        read_settings(changed(tmp_path, "federation", to="medicare"), local=True)
    with pytest.raises(ConfigError, match="expected local:"):
        read_settings(changed(tmp_path, "accounts", "east", "local", to=None), local=True)
    (tmp_path / "federation.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="expected YAML"):
        read_settings(tmp_path / "federation.yaml")


def test_hyperparameters_are_read_as_they_were_written() -> None:
    told = Told("f", "north", "10.0.0.1:7400", "10.0.0.1:7401", "ab" * 32, "identity", idle_s=5.0)
    read = {name: value.strip('"') for name, value in told.hyperparameters().items()}
    again = Told.from_hyperparameters(
        {**read, "hanse-idle-s": 5.0, "hanse-connect-s": 600.0, "hanse-since-ms": 0, "hanse-job": "", "other": 1}
    )
    assert again == told
    with pytest.raises(ConfigError, match="hanse-authority"):
        Told.from_hyperparameters({**read, "hanse-authority": ""})


def test_the_owners_files_are_filled_in_and_both_are_needed(tmp_path: Path) -> None:
    bundle = tmp_path / "code"
    bundle.mkdir()
    (bundle / "site.yaml").write_text("datasets: {p: {kind: csv, path: $SM_CHANNEL_TRAIN/p.csv, delimiter: $OTHER}}\n")
    with pytest.raises(ConfigError, match=r"policy\.yaml beside the program"):
        prepare(tmp_path / "site", bundle, {})
    (bundle / "policy.yaml").write_text("apps: []\n")
    prepare(tmp_path / "site", bundle, {"SM_CHANNEL_TRAIN": "/opt/ml/input/data/train", "OTHER": "no"})
    text = (tmp_path / "site" / "site.yaml").read_text()
    assert "/opt/ml/input/data/train/p.csv" in text
    assert "$OTHER" in text, "only the container's own variables"
    assert "keep_models: true" in text


def test_a_run_s_job_has_its_id_before_anything_starts_and_keeps_it(tmp_path: Path) -> None:
    first = noted(tmp_path, begin(tmp_path), "admin")
    check_job_owner(first.job, "admin")
    again = begin(tmp_path)
    assert again == first
    assert noted(tmp_path, again, "admin") == first


def test_a_run_that_has_not_ended_is_taken_up(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    first = begin(tmp_path)
    state = JobState("north", "fl-x-north-1", "InProgress", "training")
    write_record(tmp_path, Launched(first.run, "job1", "training", "", {"north": state}))
    again = begin(tmp_path)
    assert (again.run, again.job, again.sites) == (first.run, "job1", {"north": state})
    write_record(tmp_path, Launched(first.run, "job1", "finished"))
    assert begin(tmp_path).run != first.run
    (tmp_path / "launch.json").write_text("{}")
    with pytest.raises(ConfigError, match="move it away"):
        begin(tmp_path)


class Backend:
    """Jobs that do what a list says."""

    def __init__(self, states: dict[str, list[JobState]]) -> None:
        self.states, self.started, self.stopped = states, list[str](), list[str]()

    def start(self, account: Account) -> JobState:
        self.started.append(account.site)
        if account.site not in self.states:
            raise UnavailableError(f"{account.site}: the account's quota is used up")
        return JobState(account.site, f"job-{account.site}-{len(self.started)}", "InProgress", "training")

    def look(self, account: Account, name: str) -> JobState:
        states = self.states[account.site]
        return states.pop(0) if len(states) > 1 else states[0]

    def stop(self, account: Account, name: str) -> None:
        self.stopped.append(account.site)


def running(site: str) -> JobState:
    return JobState(site, f"job-{site}", "InProgress", "training")


def launcher(tmp_path: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch, there: set[str]) -> Launcher:
    settings = read_settings(EXAMPLE / "federation.yaml")
    placed = Settings(settings.federation, "app.py", settings.server, tmp_path, settings.accounts, tmp_path)
    monkeypatch.setattr("hanse.deploy.sagemaker.launch.connected", lambda federation: there)
    monkeypatch.setattr("hanse.deploy.sagemaker.launch.LOOK_S", 0.0)
    app = App(rounds=1, initial=[np.zeros(1)])
    app.train(lambda arrays, config, site: (arrays, 1, {}))
    return Launcher(placed, backend, Launched("r1"), app, lambda launched, event: None)


def test_a_job_that_cannot_start_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend({site: [running(site)] for site in ("north", "east")})
    with pytest.raises(UnavailableError, match="south: the account's quota"):
        launcher(tmp_path, backend, monkeypatch, set()).run(None)  # type: ignore[arg-type]
    assert backend.stopped == ["north", "east"]
    record = read_record(tmp_path)
    assert record is not None
    assert (record.status, "quota" in record.error) == ("failed", True)


def test_a_job_that_fails_before_its_site_is_there_is_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = JobState("east", "job-east", "Failed", "failed", "no route to the server")
    backend = Backend({"north": [running("north")], "east": [running("east"), dead], "south": [running("south")]})
    with pytest.raises(UnavailableError, match="east: its training job job-east failed: no route to the server"):
        launcher(tmp_path, backend, monkeypatch, {"north"}).run(None)  # type: ignore[arg-type]
    assert sorted(backend.stopped) == ["north", "south"]


def test_where_aws_has_no_machine_it_is_asked_again_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = JobState("south", "job-south", "Failed", "failed", "no such machine free (CapacityError: none)")
    backend = Backend({"north": [running("north")], "east": [running("east")], "south": [none]})
    with pytest.raises(UnavailableError, match="no such machine free"):
        launcher(tmp_path, backend, monkeypatch, set()).run(None)  # type: ignore[arg-type]
    assert backend.started.count("south") == 3


def test_ctrl_c_stops_every_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend({site: [running(site)] for site in ("north", "east", "south")})
    made = launcher(tmp_path, backend, monkeypatch, {"north", "east", "south"})

    def interrupted(federation: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(made, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.run(None)  # type: ignore[arg-type]
    assert sorted(backend.stopped) == ["east", "north", "south"]
    record = read_record(tmp_path)
    assert record is not None
    assert record.status == "cancelled"


# ---- without a server ----

SECRET = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:site"


def over_queues(tmp_path: Path, *keys: str, to: Any = None) -> Path:
    """The example over queues, with one thing changed."""
    value = yaml.safe_load((EXAMPLE / "federation.yaml").read_text())
    del value["server"]
    value |= {"transport": "queues", "queues": "aws"}
    for account in value["accounts"].values():
        account["site_secret"] = SECRET
        account.pop("token_secret", None)
    place = value
    for key in keys[:-1]:
        place = place[key]
    if keys and to is None:
        del place[keys[-1]]
    elif keys:
        place[keys[-1]] = to
    path = tmp_path / "federation.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def test_a_file_without_a_server_is_read(tmp_path: Path) -> None:
    settings = read_settings(over_queues(tmp_path))
    assert settings.queues == tmp_path / "aws"
    assert {account.site_secret for account in settings.accounts} == {SECRET}
    assert way_of(settings.accounts[0]) == f"packed:secret:{SECRET}"


@pytest.mark.parametrize(
    ("keys", "to", "says"),
    [
        (("transport",), "mqtt", "transport: expected grpc or queues, found 'mqtt'"),
        (("transport",), "grpc", "queues: expected transport: queues beside it"),
        (("transport",), None, "queues: expected transport: queues beside it"),
        (("queues",), None, r"expected queues, the folder of the federation on AWS \(hanse deploy aws init\)"),
        (("server",), {"address": "10.0.0.1"}, "server: expected none with transport: queues; nobody listens"),
        (("accounts", "north", "site_secret"), None, r"north: expected site_secret, where .* \(hanse site pack\)"),
        (("accounts", "north", "token_secret"), SECRET, "north.token_secret: expected site_secret"),
    ],
)
def test_what_is_wrong_without_a_server(tmp_path: Path, keys: tuple[str, ...], to: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_settings(over_queues(tmp_path, *keys, to=to))


def test_an_identity_is_for_queues_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="site_secret: expected transport: queues for it"):
        read_settings(changed(tmp_path, "accounts", "north", "site_secret", to=SECRET))


def aws(tmp_path: Path, **section: Any) -> Path:
    settings = read_settings(over_queues(tmp_path))
    plans = [{"name": each.site, "principal": each.execution_arn} for each in settings.accounts]
    whole = {"region": "eu-central-1", "sites": plans, "models_to_sites": True, **section}
    (tmp_path / "aws").mkdir(exist_ok=True)
    (tmp_path / "aws" / "federation.yaml").write_text(yaml.safe_dump({"federation": "medicare", "aws": whole}))
    return tmp_path / "federation.yaml"


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"models_to_sites": False}, "expected models_to_sites: true"),
        ({"sites": ["north", "east", "south"]}, r"sites: expected \{name: east, account: .*, principal: .* another"),
        ({"sites": ["other"]}, r"sites: expected \{name: east.* found none"),
        ({}, "expected federation.yaml, found none; run: hanse deploy aws deploy"),
    ],
)
def test_a_federation_on_aws_whose_sites_are_not_these_jobs(tmp_path: Path, section: Any, says: str) -> None:
    settings = read_settings(aws(tmp_path, **section))
    with pytest.raises(ConfigError, match=says):
        reached(settings, local=False)


def test_another_federation_on_aws(tmp_path: Path) -> None:
    settings = replace(read_settings(aws(tmp_path)), federation="other")
    with pytest.raises(ConfigError, match="expected federation other, found medicare"):
        reached(settings, local=False)


def test_what_others_submit_meanwhile_does_not_end_a_training_job() -> None:
    stems = itertools.count(2_000_000_000_000)
    before, foreign, own, last = (new_job_id("admin", now_ms=next(stems)) for _ in range(4))
    ends = Ends(2_000_000_000_001)
    assert not ends.is_it(before, "finished", ran=True, is_idle=True), "a word on it was left in the queue"
    assert not ends.is_it(foreign, "failed", ran=False, is_idle=False), "refused here, and ended while ours goes on"
    assert ends.is_it(own, "finished", ran=True, is_idle=False)
    assert not ends.is_it(last, "failed", ran=False, is_idle=True)
    assert (ends.job, ends.status) == (own, "finished")
    assert Ends(0).is_it(own, "failed", ran=False, is_idle=True), "refused here, and there is nothing else"


def test_who_is_told_the_job_takes_no_other_s_end_for_it() -> None:
    own, foreign = new_job_id("admin"), new_job_id("admin")
    ends = Ends(0, own)
    assert not ends.is_it(foreign, "finished", ran=True, is_idle=True), "it ran here, and nothing else is at hand"
    assert ends.is_it(own, "failed", ran=False, is_idle=False), "refused here, and another is at work"
    assert (ends.job, ends.status) == (own, "failed")
    assert not ends.is_it(own, "finished", ran=True, is_idle=True), "once"


def test_events_come_with_pauses_in_which_jobs_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "LOOK_S", 0.01)
    looked = threading.Event()

    def events() -> Iterator[dict[str, Any]]:
        yield {"what": "round"}
        assert looked.wait(WAIT_S), "nobody looked meanwhile"
        yield {"what": "finished"}
        raise UnavailableError("the queue is away")

    found: list[Any] = []

    def follow() -> None:
        for event in launch._with_pauses(events()):
            found.append(event)
            if event is None:
                looked.set()

    with pytest.raises(UnavailableError, match="away"):
        follow()
    assert [event["what"] for event in found if event] == ["round", "finished"]
    assert None in found
