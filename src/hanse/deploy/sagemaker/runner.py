"""The offline job runner: executes a training job's contract for real, in a process of its own on this machine.

It takes the same request as `CreateTrainingJob` and gives the same answers as `DescribeTrainingJob`. Addresses are
`file:` ones. What differs from SageMaker: there is no container (the interpreter is this one), one host, no network
settings, and a program must find its folders through the `SM_*` variables. `requirements.txt` is installed only if
the runner is told to.
"""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse.core.errors import ConfigError, ConflictError, NotFoundError
from hanse.deploy.sagemaker.contract import (
    Layout,
    Request,
    channels_of,
    files,
    hyperparameters_of,
    program_of,
    user_arguments,
    variables,
)

STOP_S = 120.0
"""Between SIGTERM and SIGKILL, as SageMaker has it."""
LONGEST_REASON = 1024
KEPT = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")
"""What a job has of this process's environment; no credentials."""
_TAIL_LINES = 8
_CHILD = """
import os, runpy, signal, sys, threading
def leave():
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=leave, daemon=True).start()
sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""The program, which leaves when the runner's process is gone, however that came."""


@dataclass(slots=True)
class _Running:
    request: dict[str, Any]
    account: str
    region: str
    status: str = "InProgress"
    secondary: str = "Starting"
    reason: str = ""
    artifacts: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    wish: str = ""
    interruptions: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)
    log: Path = Path()


class LocalJobs:
    """Training jobs on this machine.

    Args:
        home: folder for the jobs' roots and logs.
        install: install each job's `requirements.txt` first (needs a package index).
        given: further variables of this process's environment that jobs have.
        stop_s: seconds between asking a job to stop and killing it.
    """

    def __init__(self, home: Path, *, install: bool = False, stop_s: float = STOP_S, given: Sequence[str] = ()) -> None:
        self._home = home
        self._install = install
        self._given = tuple(given)
        self._stop_s = stop_s
        self._jobs: dict[str, _Running] = {}

    def create(self, request: Request, *, account: str = "000000000000", region: str = "local") -> None:
        """Start a job.

        Raises:
            ConflictError: there is one of this name. ConfigError: the request cannot be.
        """
        name = str(request["TrainingJobName"])
        if name in self._jobs:
            raise ConflictError(f"training job {name} exists already")
        program_of(request)
        job = self._jobs[name] = _Running(dict(request), account, region)
        job.log = self._home / f"{name}.log"
        self._home.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._run, args=(name, job), name=name, daemon=True).start()

    def describe(self, name: str) -> dict[str, Any]:
        """As `DescribeTrainingJob`.

        Raises:
            NotFoundError: no such job.
        """
        job = self._job(name)
        found = {
            "TrainingJobName": name,
            "TrainingJobStatus": job.status,
            "SecondaryStatus": job.secondary,
            "HyperParameters": job.request.get("HyperParameters", {}),
        }
        if job.reason:
            found["FailureReason"] = job.reason
        if job.artifacts:
            found["ModelArtifacts"] = {"S3ModelArtifacts": job.artifacts}
        return found

    def stop(self, name: str) -> None:
        """Ask it to stop; it is killed if it takes too long."""
        self._signal(name, "stop")

    def interrupt(self, name: str) -> None:
        """Take its machine away, as spot capacity is: a spot job starts again with its checkpoints."""
        self._signal(name, "interrupt")

    def wait(self, name: str, timeout_s: float) -> bool:
        """Wait for its end."""
        return self._job(name).over.wait(timeout_s)

    def log_of(self, name: str) -> Path:
        """What it has printed."""
        return self._job(name).log

    def close(self) -> None:
        """End every job that still runs."""
        for name, job in self._jobs.items():
            if not job.over.is_set():
                self.stop(name)
        for job in self._jobs.values():
            job.over.wait(self._stop_s + 5)

    # ---- one job ----

    def _job(self, name: str) -> _Running:
        if name not in self._jobs:
            raise NotFoundError(f"training job {name}: there is none of this name")
        return self._jobs[name]

    def _signal(self, name: str, wish: str) -> None:
        job = self._job(name)
        with job.lock:
            if job.over.is_set():
                return
            if not job.wish:
                job.wish = wish
            if wish == "stop":
                job.status, job.secondary = "Stopping", "Stopping"
            if job.process is not None:
                _end(job.process, signal.SIGTERM)
                threading.Timer(self._stop_s, _end, (job.process, signal.SIGKILL)).start()

    def _run(self, name: str, job: _Running) -> None:
        try:
            while self._attempt(name, job):
                job.interruptions += 1
                job.wish = ""
                job.status, job.secondary = "InProgress", "Starting"
        except (ConfigError, OSError, tarfile.TarError) as error:
            job.status, job.secondary, job.reason = "Failed", "Failed", f"ClientError: {error}"[:LONGEST_REASON]
        finally:
            job.over.set()

    def _attempt(self, name: str, job: _Running) -> bool:
        """Once from start to end; whether it is to start again."""
        request = job.request
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=self._home, ignore_cleanup_errors=True) as folder:
            layout = Layout(Path(folder))
            job.secondary = "Downloading"
            _prepare(request, layout)
            program, _ = program_of(request)
            if not (layout.code / program).is_file():
                raise ConfigError(f"program {program}: expected it in the code bundle, found none")
            environment = {key: os.environ[key] for key in KEPT if key in os.environ}
            environment |= {"HOME": str(layout.root), "PYTHONUNBUFFERED": "1"}
            environment |= {key: os.environ[key] for key in self._given if key in os.environ}
            environment |= variables(request, layout, region=job.region, account=job.account)
            if self._install and (layout.code / "requirements.txt").is_file():
                _install(layout, environment, job.log)
            code = self._execute(request, layout, environment, job)
            job.secondary = "Uploading"
            _sync_checkpoints(request, layout)
            if job.wish == "interrupt" and request.get("EnableManagedSpotTraining"):
                job.secondary = "Interrupted"
                return True
            _upload(request, layout, job)
            _conclude(job, code, layout)
        return False

    def _execute(self, request: Request, layout: Layout, environment: dict[str, str], job: _Running) -> int:
        program, _ = program_of(request)
        command = [sys.executable, "-c", _CHILD, program, *user_arguments(hyperparameters_of(request))]
        limit = float(request.get("StoppingCondition", {}).get("MaxRuntimeInSeconds", 86_400))
        with job.lock:
            if job.wish:
                return -signal.SIGTERM
            with job.log.open("ab") as log:
                job.process = subprocess.Popen(
                    command,
                    cwd=layout.code,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            job.secondary = "Training"
        try:
            return job.process.wait(limit)
        except subprocess.TimeoutExpired:
            with job.lock:
                if not job.wish:
                    job.wish = "time"
            _end(job.process, signal.SIGTERM)
            try:
                return job.process.wait(self._stop_s)
            except subprocess.TimeoutExpired:
                _end(job.process, signal.SIGKILL)
                return job.process.wait()


def _end(process: "subprocess.Popen[bytes]", number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _prepare(request: Request, layout: Layout) -> None:
    """Everything that is there when the program starts."""
    channels = channels_of(request)
    for folder in layout.folders(tuple(channels)):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files(request).items():
        (layout.config / name).write_text(content)
    for name, address in channels.items():
        copy_in(address, layout.channel(name))
    _, code = program_of(request)
    unpack_code(path_of(code), layout.code)
    checkpoints = request.get("CheckpointConfig", {}).get("S3Uri")
    if checkpoints and path_of(checkpoints).is_dir():
        shutil.copytree(path_of(checkpoints), layout.checkpoints, dirs_exist_ok=True)


def copy_in(address: str, folder: Path) -> None:
    """A channel's data: a file, or everything in a folder."""
    source = path_of(address)
    if source.is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True)
    elif source.is_file():
        shutil.copy2(source, folder)
    else:
        raise ConfigError(f"{address}: expected data there, found nothing")


def unpack_code(source: Path, folder: Path) -> None:
    """The code bundle: a .tar.gz, or a folder as it is."""
    if source.is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True)
        return
    if not source.is_file():
        raise ConfigError(f"{source}: expected the code bundle, a .tar.gz or a folder, found nothing")
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")


def path_of(address: str) -> Path:
    """The local path of an address.

    Raises:
        ConfigError: it is somewhere else.
    """
    if not address.startswith("file://"):
        raise ConfigError(f"{address}: expected a file:// address, since this job runs on this machine")
    return Path(address.removeprefix("file://"))


def _install(layout: Layout, environment: dict[str, str], log: Path) -> None:
    target = layout.root / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), "-r", "requirements.txt"]
    with log.open("ab") as out:
        code = subprocess.run(command, cwd=layout.code, stdout=out, stderr=out, check=False).returncode
    if code:
        raise ConfigError("requirements.txt could not be installed; the log says why")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(target), environment.get("PYTHONPATH"))))


def _sync_checkpoints(request: Request, layout: Layout) -> None:
    address = request.get("CheckpointConfig", {}).get("S3Uri")
    if address:
        path_of(address).mkdir(parents=True, exist_ok=True)
        shutil.copytree(layout.checkpoints, path_of(address), dirs_exist_ok=True)


def _upload(request: Request, layout: Layout, job: _Running) -> None:
    """`model.tar.gz` and `output.tar.gz`, as far as there is anything; also of a job that failed or was stopped."""
    address = request.get("OutputDataConfig", {}).get("S3OutputPath")
    if not address:
        return
    folder = path_of(address) / str(request["TrainingJobName"]) / "output"
    for source, name in ((layout.model, "model.tar.gz"), (layout.output / "data", "output.tar.gz")):
        if not any(source.iterdir()):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / name, "w:gz") as archive:
            for each in sorted(source.iterdir()):
                archive.add(each, each.name)
        if name == "model.tar.gz":
            job.artifacts = f"file://{folder / name}"


def _conclude(job: _Running, code: int, layout: Layout) -> None:
    if job.wish in ("stop", "time", "interrupt"):
        job.secondary = {"time": "MaxRuntimeExceeded", "interrupt": "Interrupted"}.get(job.wish, "Stopped")
        job.status = "Stopped"
    elif code == 0:
        job.status = job.secondary = "Completed"
    else:
        told = layout.output / "failure"
        reason = told.read_text(errors="replace").strip() if told.is_file() else ""
        reason = reason or f"ExecuteUserScriptError: ExitCode {code}: {_last_words(job.log)}"
        job.status, job.secondary = "Failed", "Failed"
        job.reason = f"AlgorithmError: {reason}"[:LONGEST_REASON]


def _last_words(log: Path) -> str:
    try:
        return " | ".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError:
        return ""
