"""Buckets and drives: what a tenant may read, and nothing beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deployments.errors import SourceForbidden, SourceNotFound
from deployments.ingestion.allow_list import AllowList, check_entries
from deployments.ingestion.buckets import Buckets, check_object
from deployments.messages import FetchRequest

OWN = "s3://murmur/artifacts?endpoint_override=minio:9000"


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        ("s3://rec", ["rec/a", "rec/b/c"], ["rec2/a", "re/a"]),
        ("s3://rec/", ["rec/a"], ["rec2/a"]),
        ("s3://rec/in", ["rec/in/a", "rec/in/x/a"], ["rec/a", "rec/inner/a", "rec/In/a", "rec/x/in/a"]),
        ("s3://rec/in/", ["rec/in/a"], ["rec/inner/a"]),
        ("s3://rec/{tenant}/", ["rec/acme/a"], ["rec/other/a", "rec/acme2/a", "rec/{tenant}/a"]),
        ("s3://rec/of-{tenant}/in", ["rec/of-acme/in/a"], ["rec/of-acme/a", "rec/of-/in/a"]),
        ("s3://murmur", ["murmur/x", "murmur/artifacts2/x"], ["murmur/artifacts/jobs/j/source"]),
        ("s3://murmur/artifacts/", [], ["murmur/artifacts/jobs/j/source"]),
    ],
)
def test_a_place_is_a_bucket_or_a_folder_of_it(entry: str, allowed: list[str], refused: list[str]) -> None:
    allow_list = AllowList.parse([entry], OWN)
    for path in allowed:
        check_object(f"s3://{path}", allow_list, "acme")
    for path in refused:
        with pytest.raises(SourceForbidden):
            check_object(f"s3://{path}", allow_list, "acme")


@pytest.mark.parametrize("tenant", ["", ".", "..", "a/b"])
def test_a_tenant_without_a_folder_reads_nothing(tenant: str) -> None:
    with pytest.raises(SourceForbidden):
        check_object(f"s3://rec/{tenant}/a", AllowList.parse(["s3://rec/{tenant}/"]), tenant)


@pytest.mark.parametrize(
    "entry", ["s3://", "s3://r", "s3://rec/../x", "s3://rec//x", "s3://rec/{owner}/", "s3://rec/x?y=z", "1/2"]
)
def test_a_malformed_entry_is_refused_at_the_start(entry: str) -> None:
    with pytest.raises(ValueError, match=r"s3://|1/2"):
        check_entries(["s3://good-bucket/{tenant}/", entry])


class Drive:
    """Folder of two tenants, each with a recording, beside a secret."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for tenant in ("acme", "other"):
            (folder / "drive" / tenant).mkdir(parents=True)
            (folder / "drive" / tenant / "talk").write_bytes(tenant.encode())
        (folder / "secret").write_bytes(b"secret")

    def read(self, path: str, *, root: str = "drive/acme/", storage_uri: str = "") -> bytes:
        base = self.folder.as_uri()
        buckets = Buckets(AllowList.parse([], storage_uri))
        return b"".join(buckets.read(FetchRequest(f"{base}/{path}", "k", 1000, drive_root=f"{base}/{root}")))


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    return Drive(tmp_path)


def test_a_file_below_the_root_is_read(drive: Drive) -> None:
    assert drive.read("drive/acme/talk") == b"acme"
    with pytest.raises(SourceNotFound):
        drive.read("drive/acme/nothing")


@pytest.mark.parametrize(
    "path",
    [
        "secret",
        "drive/other/talk",
        "drive/acme/../other/talk",
        "drive/acme/../../secret",
        "drive/acme/%2e%2e/other/talk",
        "drive/acme/..%2fother%2ftalk",
        "drive/acme/talk%00",
        "drive/acme/",
        "drive/acme",
        "drive/acme2",
    ],
)
def test_a_path_that_resolves_to_outside_of_the_root_is_refused(drive: Drive, path: str) -> None:
    (drive.folder / "drive/acme2").write_bytes(b"beside")
    with pytest.raises(SourceForbidden):
        drive.read(path)


def test_links_are_followed_inside_of_the_root_only(drive: Drive) -> None:
    folder = drive.folder / "drive/acme"
    (folder / "alias").symlink_to(folder / "talk")
    (folder / "away").symlink_to(drive.folder / "secret")
    (folder / "theirs").symlink_to(drive.folder / "drive/other")
    assert drive.read("drive/acme/alias") == b"acme"
    for path in ("drive/acme/away", "drive/acme/theirs/talk"):
        with pytest.raises(SourceForbidden):
            drive.read(path)


def test_a_root_that_is_a_link_is_a_drive_as_well(drive: Drive) -> None:
    (drive.folder / "link").symlink_to(drive.folder / "drive")
    assert drive.read("link/acme/talk", root="link/acme/") == b"acme"


def test_a_pipe_is_not_waited_for(drive: Drive) -> None:
    os.mkfifo(drive.folder / "drive/acme/pipe")
    with pytest.raises(SourceForbidden):
        drive.read("drive/acme/pipe")


def test_the_services_own_artifacts_are_no_drive(drive: Drive) -> None:
    with pytest.raises(SourceForbidden):
        drive.read("drive/acme/talk", storage_uri=(drive.folder / "drive").as_uri())
    assert drive.read("drive/acme/talk", storage_uri=(drive.folder / "artifacts").as_uri()) == b"acme"


@pytest.mark.parametrize(
    "url", ["s3://bucket/other/x", "s3://bucket/acme/../x", "s3://bucket2/acme/x", "gs://bucket/acme/..%2fx"]
)
def test_an_object_outside_of_the_root_is_refused(url: str) -> None:
    scheme = url.partition(":")[0]
    with pytest.raises(SourceForbidden):
        list(Buckets(AllowList()).read(FetchRequest(url, "k", 1000, drive_root=f"{scheme}://bucket/acme/")))
