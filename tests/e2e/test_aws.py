"""A federation on an emulator of AWS as its operator would make it: deployed, trained in, changed, removed.

CloudFormation, Step Functions with task tokens, SQS, DynamoDB's stream and our functions are MiniStack's to run; that
the roles suffice it does not say, since it asks nobody (see tests/unit/deploy/aws/test_rights.py).
"""

import functools
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import hanse as hs
from hanse.demos.local_federation import POLICY, Child
from tests.conformance import account
from tests.patience import WAIT_S

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.xdist_group("emulated-aws")]

APP = """
from sklearn.linear_model import LogisticRegression
import hanse as hs

app = hs.App(hs.FedAvg(), rounds=3, quorum=2, min_sites=2)

@app.client
def client(site):
    X, y = site.load("patients")
    return hs.sklearn(LogisticRegression(), X, y, classes=[0, 1], test=0.2)

@app.evaluate_on_server
def evaluate_on_server(arrays, round):
    return {"size": float(abs(arrays["coef"]).sum())}
"""
SITES = {"bergen": 90, "luebeck": 140}


def interpreter() -> str:
    """The Python that has MiniStack: this one, or $HANSE_MINISTACK (it pins another botocore than ours)."""
    named = os.environ.get("HANSE_MINISTACK", "")
    if not named and importlib.util.find_spec("ministack") is None:
        pytest.skip("needs MiniStack: set HANSE_MINISTACK to a Python that has ministack==1.5.33")
    return named or sys.executable


@pytest.fixture(scope="module", params=["emulator", pytest.param("account", marks=pytest.mark.aws)])
def endpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An emulator on a free loopback port; "" for a real account (see tests/conformance/account.py)."""
    pytest.importorskip("boto3", reason="needs the extra `aws`")
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    if request.param == "account":
        account.session()
        yield ""
        return
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    place = tmp_path_factory.mktemp("emulator")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "AWS_ENDPOINT_URL")}
    environment |= {"BIND_HOST": "127.0.0.1", "MINISTACK_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}
    environment |= {"IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0", "TMPDIR": str(place)}
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [interpreter(), "-m", "ministack"], stdout=log, stderr=log, env=environment, cwd=place
        )
    try:
        _until(lambda: _answers(port), process, place / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(WAIT_S)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def _until(ready: Any, process: Any, log: Path) -> None:
    end = time.monotonic() + WAIT_S
    while not ready():
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.1)  # it announces nothing


@pytest.fixture(scope="module")
def hanse(endpoint: str) -> Any:
    """Runs a command; gives its JSON or its output."""
    emulated = {
        "AWS_ACCESS_KEY_ID": "000000000000",
        "AWS_SECRET_ACCESS_KEY": "emulated",
        "AWS_ENDPOINT_URL": endpoint,
    }
    credentials = emulated if endpoint else {}

    def run(*words: str, code: int = 0) -> Any:
        command = [sys.executable, "-m", "hanse.cli.main", *words]
        ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **credentials}, check=False)
        assert ended.returncode == code, ended.stderr + ended.stdout
        return json.loads(ended.stdout) if "--json" in words else ended.stdout + ended.stderr

    run.credentials = credentials  # type: ignore[attr-defined]
    return run


def data(site: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(SITES[site])
    X = rng.normal(size=(SITES[site], 3))
    return X, (X @ [1.0, -2.0, 0.5] > 0).astype(int)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, hanse: Any, endpoint: str) -> Path:
    """A federation's folder, deployed, and two sites admitted beside it."""
    home = tmp_path_factory.mktemp("home")
    path = home / "north" / "federation.yaml"
    sites = [word for site in SITES for word in ("--site", site)]
    hanse("deploy", "aws", "init", str(path), "--region", account.REGION, *sites)
    if not endpoint:  # the sites come as whoever runs the tests
        text = path.read_text()
        for site in SITES:
            named = json.dumps({"name": site, "principal": account.principal()})
            text = text.replace(f'    - "{site}"\n', f"    - {named}\n")
        path.write_text(text)
    done = hanse("deploy", "aws", "deploy", str(path), "--json")
    assert done["account"] == ("000000000000" if endpoint else os.environ["HANSE_AWS_ACCOUNT"])
    assert {change["action"] for change in done["changes"]} == {"add"}
    for site in SITES:
        place = home / site
        request = hanse("site", "request", "north", site, "--directory", str(place)).splitlines()[0]
        answer = place / "answer.json"
        hanse("deploy", "aws", "admit", request, str(path), "--output", str(answer))
        hanse("site", "join", str(answer), "--directory", str(place))
        X, y = data(site)
        np.savez(place / "patients.npz", x=X, y=y)
        text = (place / "site.yaml").read_text()
        assert "datasets: {}" in text
        declared = "datasets: {patients: {kind: npz, path: patients.npz, x: x, y: y}}"
        (place / "site.yaml").write_text(text.replace("datasets: {}", declared))
        (place / "policy.yaml").write_text(POLICY)
    return home


def test_what_is_there_needs_no_change(home: Path, hanse: Any) -> None:
    assert hanse("deploy", "aws", "diff", str(home / "north"), "--json") == {"changes": []}
    done = hanse("deploy", "aws", "deploy", str(home / "north"), "--json")
    assert done["changes"] == []


def test_a_model_is_trained_and_has_the_bits_of_a_simulation(home: Path, hanse: Any) -> None:
    app = home / "app.py"
    app.write_text(APP)
    children = [Child("site", home / site) for site in SITES]
    try:
        for child in children:
            child.start({"PYTHONUNBUFFERED": "1", **hanse.credentials})
        person, output = str(home / "north" / "admin"), str(home / "m.safetensors")
        told = hanse("run", str(app), "--federation", person, "--output", output, "--json")
    finally:
        for child in children:
            child.signal(15)
        for child in children:
            child.wait()
    spec = importlib.util.spec_from_file_location("emulated_app", app)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["emulated_app"] = module
    spec.loader.exec_module(module)
    expected = hs.simulate(module.app, sites={site: {"patients": data(site)} for site in SITES})
    # The last round's metrics too, also what the app's own code said in the function that runs it.
    assert told["rounds"][-1]["metrics"] == expected.rounds[-1].metrics
    assert "server_size" in expected.rounds[-1].metrics
    found = load_file(home / "m.safetensors")
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: np.asarray(array).tobytes() for name, array in expected.arrays.items()
    }


def test_a_stack_that_something_else_makes_is_given_its_keys_alone(home: Path, hanse: Any, tmp_path: Path) -> None:
    done = hanse("deploy", "aws", "deploy", str(home / "north"), "--keys-only", "--json")
    assert (done["changes"], done["package"]) == ([], None)
    path = tmp_path / "south" / "federation.yaml"
    hanse("deploy", "aws", "init", str(path), "--region", account.REGION, "--site", "riga")
    assert "expected a stack of this name" in hanse("deploy", "aws", "deploy", str(path), "--keys-only", code=1)


def test_members_are_listed(home: Path, hanse: Any) -> None:
    found = hanse("deploy", "aws", "members", str(home / "north"), "--json")["members"]
    assert {(each["kind"], each["name"], each["state"]) for each in found} == {
        *(("site", site, "enrolled") for site in SITES),
        ("person", "admin", "enrolled"),
    }


def test_a_site_more_is_a_line_more(home: Path, hanse: Any) -> None:
    path = home / "north" / "federation.yaml"
    before = hanse("deploy", "aws", "deploy", str(path), "--json")["outputs"]
    path.write_text(path.read_text().replace("  sites:\n", "  sites:\n    - riga\n"))
    planned = hanse("deploy", "aws", "diff", str(path), "--json")["changes"]
    added = {change["name"] for change in planned if change["action"] == "add"}
    assert added
    assert all(name.startswith("Riga") for name in added)
    assert not any(change["replaced"] for change in planned)
    after = hanse("deploy", "aws", "deploy", str(path), "--json")["outputs"]
    assert {key for key in after if key not in before} == {"RigaRoleArn"}
    assert {key: after[key] for key in before} == before


def test_wrong_things_are_one_line(home: Path, hanse: Any, tmp_path: Path) -> None:
    nobody = hanse("deploy", "aws", "admit", str(home / "bergen" / "answer.json"), str(home / "north"), code=1)
    assert nobody.startswith("error: ")
    request = hanse("site", "request", "north", "nobody", "--directory", str(tmp_path / "nobody")).splitlines()[0]
    unknown = hanse("deploy", "aws", "admit", request, str(home / "north"), code=2)
    assert "expected one of riga, bergen, luebeck" in unknown
    other = hanse("site", "request", "south", "bergen", "--directory", str(tmp_path / "south")).splitlines()[0]
    assert "of south" in hanse("deploy", "aws", "admit", other, str(home / "north"), code=1)
    assert all(text.count("\n") == 1 for text in (nobody, unknown))


def test_nothing_is_left(home: Path, hanse: Any, endpoint: str) -> None:
    import boto3

    told = hanse("deploy", "aws", "destroy", str(home / "north"), "--yes")
    assert "Nothing is left of north but the key" in told
    client: Any = functools.partial(
        boto3.client,
        endpoint_url=endpoint,
        region_name="eu-central-1",
        aws_access_key_id="000000000000",
        aws_secret_access_key="emulated",
    )
    if not endpoint:  # where there may be other things of the account's owner
        found = (
            account.session()
            .client("resourcegroupstaggingapi")
            .get_resources(TagFilters=[{"Key": "hanse:federation", "Values": ["north"]}])["ResourceTagMappingList"]
        )
        assert [each["ResourceARN"] for each in found if ":kms:" not in each["ResourceARN"]] == []
        return
    assert client("s3").list_buckets()["Buckets"] == []
    assert client("sqs").list_queues().get("QueueUrls", []) == []
    assert client("dynamodb").list_tables()["TableNames"] == []
    assert client("lambda").list_functions()["Functions"] == []
    assert client("stepfunctions").list_state_machines()["stateMachines"] == []
    assert [r for r in client("iam").list_roles()["Roles"] if r["RoleName"].startswith("hanse-")] == []
    assert [g for g in client("logs").describe_log_groups()["logGroups"] if "/hanse/" in g["logGroupName"]] == []
    assert client("secretsmanager").list_secrets()["SecretList"] == []
    assert "not deployed yet" in hanse("deploy", "aws", "diff", str(home / "north"), code=1)
