"""Nothing received is unpickled or evaluated: the package's own text, and what it asks of libraries that could.

A search, not a proof: it reads every file of `hanse` and refuses names that load code or objects from bytes, unless
the place is listed here with its reason.
"""

import ast
from pathlib import Path

import pytest

import hanse

ROOT = Path(hanse.__file__).parent
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "jsonpickle",
    "copyreg",
    "code",
    "codeop",
    "runpy",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "torch.load": "torch.load unpickles",
    "np.load": "numpy.load unpickles on request, and reads zip archives",
    "numpy.load": "numpy.load unpickles on request, and reads zip archives",
    "yaml.load": "yaml.load builds objects",
    "yaml.unsafe_load": "builds objects",
    "yaml.full_load": "builds objects",
    "joblib.load": "unpickles",
    "pd.read_pickle": "unpickles",
    "pandas.read_pickle": "unpickles",
    "importlib.import_module": "imports by name",
    "importlib.util.spec_from_file_location": "imports a file",
    "spec.loader.exec_module": "runs a module",
    "subprocess.Popen": "starts a process",
    "subprocess.run": "starts a process",
    "os.system": "runs a shell",
}
ALLOWED = {
    ("__init__.py", "importlib.import_module"): "the front door's names come lazily from a fixed table",
    ("cli/main.py", "importlib.import_module"): "commands come lazily from a fixed table",
    ("cli/processes.py", "subprocess.Popen"): "starts our own commands",
    ("demos/local_federation.py", "subprocess.Popen"): "starts our own server and sites",
    ("workers/launcher.py", "subprocess.Popen"): "starts the launcher itself",
    ("workers/launcher.py", "importlib.import_module"): "libraries to preload, named by this machine's own settings",
    ("simulation/hands.py", "subprocess.Popen"): "starts our own replicas",
    ("simulation/replica.py", "importlib.import_module"): "a module that the simulation itself has imported",
    ("clients/data_parallel.py", "subprocess.Popen"): "starts the processes that train together inside one site",
    ("clients/data_parallel_process.py", "importlib.import_module"): "the app's module, which this worker has imported",
    ("clients/estimator_files.py", "joblib"): "writes a .joblib where its user asks for one; never reads",
    ("deploy/aws/package.py", "subprocess.run"): "pip, for the wheels of the functions",
    ("deploy/sagemaker/server.py", "subprocess.Popen"): "starts our own server",
    ("deploy/sagemaker/runner.py", "subprocess.Popen"): "runs a training job's own program on its owner's machine",
    ("deploy/sagemaker/runner.py", "subprocess.run"): "pip, for a training job's requirements.txt",
    ("vertical/__init__.py", "importlib.import_module"): "names come lazily from a fixed table",
    ("workers/isolation.py", "subprocess.run"): "asks whether another user may run this Python",
    ("workers/worker.py", "importlib.import_module"): "the worker's runtime, named by its launcher on this machine",
    ("clients/loader.py", "importlib.util.spec_from_file_location"): "the app: approved by hash, in a worker",
    ("clients/loader.py", "spec.loader.exec_module"): "the app: approved by hash, in a worker",
    ("workers/datasets.py", "importlib.util.spec_from_file_location"): "the owner's own loader, from site.yaml",
    ("workers/datasets.py", "spec.loader.exec_module"): "the owner's own loader, from site.yaml",
    ("workers/datasets.py", "np.load"): "the owner's own data; object arrays are refused",
}


def names(tree: ast.AST) -> list[tuple[int, str]]:
    """What is imported from `MODULES`, called of `BUILTINS` and `CALLS`, or given `allow_pickle` or `shell`."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            if node.module.split(".")[0] in MODULES:
                found.append((node.lineno, node.module))
            full = [f"{node.module}.{alias.name}" for alias in node.names if alias.name != "import_module"]
            found += [(node.lineno, name) for name in full if name in CALLS]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            called = {"import_module": "importlib.import_module"}.get(called, called)
            if called in BUILTINS or called in CALLS or called.endswith((".exec_module", ".read_pickle")):
                found.append((node.lineno, called))
            for keyword in node.keywords:
                value = keyword.value
                refuses = isinstance(value, ast.Constant) and value.value is False
                if keyword.arg in ("allow_pickle", "shell") and not refuses:
                    found.append((node.lineno, str(keyword.arg)))
    return found


def test_arrays_are_read_without_objects() -> None:
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                assert {k.arg: ast.unparse(k.value) for k in node.keywords} == {"allow_pickle": "False"}, path


def test_no_file_of_the_package_loads_code_or_objects() -> None:
    used: set[tuple[str, str]] = set()
    wrong: list[str] = []
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 100
    for path in files:
        where = path.relative_to(ROOT).as_posix()
        for line, name in names(ast.parse(path.read_text())):
            if (where, name) in ALLOWED:
                used.add((where, name))
            else:
                wrong.append(f"{where}:{line}: {name}")
    assert wrong == []
    assert used == set(ALLOWED), "an exception that nothing needs any more"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "eval('1')",
        "exec(x)",
        "torch.load(f)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "read(f, allow_pickle=flag)",
        "yaml.load(f)",
        "from yaml import unsafe_load",
        "os.system('x')",
        "run(x, shell=True)",
        "loader.exec_module(m)",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert names(ast.parse(source))


@pytest.mark.parametrize(
    "source", ["yaml.safe_load(f)", "read(f, allow_pickle=False)", "re.compile('x')", "model.eval()"]
)
def test_the_search_passes_over(source: str) -> None:
    assert not names(ast.parse(source))
