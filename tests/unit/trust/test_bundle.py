"""App bundles: the same bytes for the same content, and nothing outside the directory."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.codec import canonical_json
from hanse.core.errors import CodecError, ConfigError, HanseError, IntegrityError, RefusedError, TooLargeError
from hanse.trust.bundle import (
    MAGIC,
    Bundle,
    BundleLimits,
    build_bundle,
    check_path,
    make_bundle,
    read_bundle,
    unpack_bundle,
)

FILES = {"app.py": b"app = 1\n", "lib/model.py": b"x = 2\n", "data/table.csv": b"1,2\n"}


def make(files: dict[str, bytes] | None = None, **options: Any) -> Bundle:
    return make_bundle(FILES if files is None else files, module="app", hanse_version="0.1.0", **options)


BUNDLE = make()


def pack(manifest: dict[str, Any] | bytes, *contents: bytes) -> bytes:
    """A bundle as an attacker would write it."""
    encoded = manifest if isinstance(manifest, bytes) else canonical_json(manifest)
    return MAGIC + len(encoded).to_bytes(4, "big") + encoded + b"".join(contents)


def manifest_of(*files: tuple[str, bytes]) -> dict[str, Any]:
    entries = [{"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files]
    return {"v": 1, "module": "app", "object": "app", "hanse": "0", "files": entries}


def test_round_trip(tmp_path: Path) -> None:
    read = read_bundle(BUNDLE.content, expected_id=BUNDLE.id)
    assert read == BUNDLE
    assert {path: bytes(view) for path, view in read.files()} == FILES
    unpacked = unpack_bundle(read, tmp_path / read.id)
    assert {str(path.relative_to(unpacked)): path.read_bytes() for path in unpacked.rglob("*.*")} == FILES
    assert [path.name for path in tmp_path.iterdir()] == [read.id]


def test_same_content_same_bytes_whatever_the_order_of_files() -> None:
    assert make(dict(reversed(FILES.items()))).content == BUNDLE.content


def test_the_id_is_fixed_for_ever() -> None:
    """Computed once, by hand, from the documented form: a change here breaks every approval at every site."""
    lines = ",".join(
        f'{{"path":"{path}","sha256":"{hashlib.sha256(data).hexdigest()}","size":{len(data)}}}'
        for path, data in sorted(FILES.items())
    )
    text = f'{{"files":[{lines}],"hanse":"0.1.0","module":"app","object":"app","v":1}}'
    assert BUNDLE.id == hashlib.sha256(text.encode()).hexdigest()


@given(st.sampled_from(sorted(FILES)), st.binary(max_size=20))
def test_any_other_content_has_another_id(path: str, content: bytes) -> None:
    assert (make(FILES | {path: content}).id == BUNDLE.id) == (content == FILES[path])


@given(st.integers(0, len(BUNDLE.content) * 8 - 1))
def test_no_bit_can_be_flipped(bit: int) -> None:
    changed = bytearray(BUNDLE.content)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RefusedError):
        read_bundle(bytes(changed), expected_id=BUNDLE.id)


@given(st.integers(0, len(BUNDLE.content) - 1))
def test_none_of_it_can_be_cut_off(length: int) -> None:
    with pytest.raises(RefusedError):
        read_bundle(BUNDLE.content[:length])
    with pytest.raises(RefusedError):
        read_bundle(BUNDLE.content + b"x" * (length + 1))


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(content: bytes) -> None:
    for candidate in (content, MAGIC + content, MAGIC + len(content).to_bytes(4, "big") + content):
        with pytest.raises(RefusedError):
            read_bundle(candidate)


ESCAPES = [
    "../evil.py",
    "lib/../../evil.py",
    "/etc/cron.d/evil",
    "//server/share",
    "C:/evil.py",
    "C:evil.py",
    "..\\evil.py",
    "lib\\evil.py",
    "./evil.py",
    "lib//evil.py",
    "lib/",
    "",
    ".",
    "..",
    "lib/..",
    "evil.py\0.txt",
    "evil\n.py",
    "evil.py.",
    "evil.py ",
    "con",
    "lib/NUL.txt",
    "com1.py",
    "stream.py:hidden",
    "x" * 241,
    "/".join("d" * 17),
    "e\u0301.py",
    "\u202egnp.py",
    "what?.py",
    "\ud800.py",
]


@pytest.mark.parametrize("path", ESCAPES)
def test_paths_that_lead_elsewhere_are_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        check_path(path)
    with pytest.raises(ConfigError):
        make(FILES | {path: b""})
    if path == "\ud800.py":
        return  # cannot be written as JSON in UTF-8 at all
    files = sorted([("app.py", b""), (path, b"evil")])
    with pytest.raises(RefusedError):
        read_bundle(pack(manifest_of(*files), *(data for _, data in files)))
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=30))
def test_a_path_that_is_taken_stays_inside(path: str) -> None:
    try:
        check_path(path)
    except RefusedError:
        return
    root = Path("/somewhere/inside")
    resolved = Path(os.path.normpath(root / path))
    assert resolved != root
    assert resolved.is_relative_to(root)
    assert str(resolved.relative_to(root)) == path


@pytest.mark.parametrize(
    "path", ["a.py", "a b/c-d_e.txt", "größe.py", ".hidden", "模型/x.bin", "console.py", "a/b/c.d"]
)
def test_ordinary_paths_are_taken(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "paths",
    [
        ["app.py", "App.py"],
        ["app.py", "straße.py", "strasse.py"],
        ["app.py", "lib", "lib/x.py"],
        ["app.py", "LIB/y.py", "lib/x.py"],
        ["app.py", "ﬁle.py", "file.py"],
        ["app.py", "hanse/__init__.py"],
        ["app.py", "Hanse.py"],
    ],
)
def test_names_that_collide_somewhere_are_refused(paths: list[str]) -> None:
    with pytest.raises(ConfigError):
        make(dict.fromkeys(paths, b""))
    files = sorted((path, b"") for path in paths)
    with pytest.raises(RefusedError):
        read_bundle(pack(manifest_of(*files)))


def test_duplicate_and_unsorted_names_are_refused() -> None:
    for files in ([("app.py", b"a"), ("app.py", b"b")], [("b.py", b"a"), ("app.py", b"b")]):
        with pytest.raises(RefusedError, match="once, in sorted order"):
            read_bundle(pack(manifest_of(*files), *(data for _, data in files)))


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"extra": 1},
        {"module": "missing"},
        {"module": "app.py"},
        {"module": ""},
        {"module": "../app"},
        {"object": "app; import os"},
        {"object": "a.b"},
        {"hanse": "x" * 65},
        {"files": []},
        {"files": {}},
        {"files": [1]},
        {"files": [{"path": "app.py", "size": 0}]},
        {"files": [{"path": "app.py", "size": -1, "sha256": "00" * 32}]},
        {"files": [{"path": "app.py", "size": True, "sha256": "00" * 32}]},
        {"files": [{"path": "app.py", "size": 1e3, "sha256": "00" * 32}]},
        {"files": [{"path": "app.py", "size": 0, "sha256": "00" * 31}]},
        {"files": [{"path": "app.py", "size": 0, "sha256": "00" * 32, "mode": 511}]},
    ],
)
def test_manifests_of_another_shape_are_refused(change: dict[str, Any]) -> None:
    good = manifest_of(("app.py", b""))
    read_bundle(pack(good))
    with pytest.raises(RefusedError):
        read_bundle(pack(good | change))


def test_a_manifest_has_one_encoding() -> None:
    spaced = json.dumps(manifest_of(("app.py", b""))).encode()
    with pytest.raises(CodecError, match="canonical"):
        read_bundle(pack(spaced))


def test_nothing_hides_behind_the_last_file() -> None:
    with pytest.raises(CodecError, match="bytes"):
        read_bundle(pack(manifest_of(("app.py", b"")), b"hidden"))


def test_hashes_are_checked() -> None:
    with pytest.raises(IntegrityError, match=r"app\.py"):
        read_bundle(pack(manifest_of(("app.py", b"good")), b"evil"))
    with pytest.raises(IntegrityError, match="expected the app"):
        read_bundle(make(FILES | {"app.py": b"other"}).content, expected_id=BUNDLE.id)


@pytest.mark.parametrize(
    "limits",
    [BundleLimits(total_bytes=10), BundleLimits(file_bytes=5), BundleLimits(num_files=2)],
)
def test_limits_hold_when_making_and_when_reading(limits: BundleLimits) -> None:
    with pytest.raises(TooLargeError):
        make(limits=limits)
    with pytest.raises(TooLargeError):
        read_bundle(BUNDLE.content, limits=limits)


def test_declared_sizes_are_checked_before_anything_is_made() -> None:
    huge = manifest_of(("app.py", b""))
    huge["files"][0]["size"] = 2**80
    with pytest.raises(TooLargeError):
        read_bundle(pack(huge))


def test_unpacking_never_writes_into_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        unpack_bundle(BUNDLE, tmp_path / "taken")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="exists already"):
        unpack_bundle(BUNDLE, tmp_path / "link")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "taken"]


def test_unpacking_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hanse.trust.bundle._write_new", refuse)
    with pytest.raises(HanseError, match="No space left"):
        unpack_bundle(BUNDLE, tmp_path / "app")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in (
        "app.py",
        "lib/model.py",
        "lib/__pycache__/model.cpython-311.pyc",
        "lib/.git/config",
        "lib/.env",
        "lib/my-env/pyvenv.cfg",
        "lib/my-env/lib/huge.py",
        "lib/old.pyc",
        "table.csv",
        "secret.txt",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x = 1\n")
    (tmp_path / "outside.py").write_bytes(b"outside")
    return root


def paths_of(bundle: Bundle) -> list[str]:
    return [file.path for file in bundle.manifest.files]


def test_the_module_and_what_it_includes_and_no_more(project: Path) -> None:
    assert paths_of(build_bundle(project / "app.py")) == ["app.py"]
    bundle = build_bundle(project / "app.py", ["lib", Path("table.csv"), project / "table.csv"])
    assert paths_of(bundle) == ["app.py", "lib/model.py", "table.csv"]
    assert bundle.manifest.module == "app"
    assert bundle.manifest.object == "app"
    assert read_bundle(bundle.content) == bundle
    named = build_bundle(project / "app.py", [project / "lib" / ".env"])
    assert paths_of(named) == ["app.py", "lib/.env"]


def test_a_module_in_a_package(project: Path) -> None:
    bundle = build_bundle(project / "lib" / "model.py", root=project)
    assert (bundle.manifest.module, paths_of(bundle)) == ("lib.model", ["lib/model.py"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, "interactive session.*app.py"),
        ("<stdin>", "interactive session"),
        ("<ipython-input-1-abc>", "interactive session"),
        ("study.ipynb", "notebook.*nbconvert"),
        ("ipykernel_123/456.py", "notebook.*nbconvert"),
        ("app.txt", r"\.py file"),
        ("missing.py", "no such file"),
    ],
)
def test_an_app_without_a_file_is_refused_with_the_fix(entry: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        build_bundle(entry)


@pytest.mark.parametrize(
    ("include", "message"),
    [("missing.csv", "nothing at"), ("../outside.py", "below"), ("link.py", "below"), ("linked", "below")],
)
def test_what_cannot_be_included_is_refused(project: Path, include: str, message: str) -> None:
    (project / "link.py").symlink_to(project.parent / "outside.py")
    (project.parent / "elsewhere").mkdir()
    (project.parent / "elsewhere" / "x.py").touch()
    (project / "linked").symlink_to(project.parent / "elsewhere")
    with pytest.raises(ConfigError, match=message):
        build_bundle(project / "app.py", [include])


def test_a_walk_does_not_leave_through_a_linked_directory(project: Path) -> None:
    (project / "lib" / "out").symlink_to(project.parent)
    assert paths_of(build_bundle(project / "app.py", ["lib"])) == ["app.py", "lib/model.py"]
    (project / "lib" / "out.py").symlink_to(project.parent / "outside.py")
    with pytest.raises(ConfigError, match="below"):
        build_bundle(project / "app.py", ["lib"])


def test_an_entry_outside_its_root_is_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match="below"):
        build_bundle(project / "app.py", root=project / "lib")


def test_a_module_that_is_not_python_or_not_importable_is_refused(project: Path) -> None:
    (project / "app.py").write_text("def f(:\n")
    with pytest.raises(ConfigError, match="line 1"):
        build_bundle(project / "app.py")
    (project / "my-app.py").write_text("")
    with pytest.raises(ConfigError, match="imported"):
        build_bundle(project / "my-app.py")
    (project / "hanse.py").write_text("")
    with pytest.raises(ConfigError, match="hide the library"):
        build_bundle(project / "hanse.py")


def test_a_data_set_by_mistake_is_refused_without_reading_all_of_it(project: Path) -> None:
    with (project / "table.csv").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooLargeError, match="data sets do not belong"):
        build_bundle(project / "app.py", ["table.csv"])
    (project / "table.csv").write_bytes(bytes(600))
    (project / "second.csv").write_bytes(bytes(600))
    with pytest.raises(TooLargeError, match=r"second\.csv"):
        build_bundle(project / "app.py", ["table.csv", "second.csv"], limits=BundleLimits(total_bytes=1000))


def test_building_does_not_run_the_module(project: Path) -> None:
    (project / "app.py").write_text("raise SystemExit('it ran')\n")
    assert paths_of(build_bundle(project / "app.py")) == ["app.py"]


def test_unpacked_names_cannot_be_links(tmp_path: Path) -> None:
    """The form has no links; what is written are new regular files."""
    unpacked = unpack_bundle(BUNDLE, tmp_path / "app")
    kinds: list[Callable[[Path], bool]] = [Path.is_symlink, lambda path: not (path.is_file() or path.is_dir())]
    assert not any(kind(path) for path in unpacked.rglob("*") for kind in kinds)
