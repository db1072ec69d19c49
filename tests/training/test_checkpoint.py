"""Checkpoints are whole or not there, and a bad one is refused with advice."""

import errno
import os
import resource
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ratpg.training import checkpoint
from ratpg.training.checkpoint import FILE, PREVIOUS, BadCheckpoint, load, save


def state(number: int, size: int = 3) -> dict[str, Any]:
    return {"number": number, "weights": torch.full((size,), float(number)), "nested": {"list": [1, 2.5, "x", None]}}


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, state(1))
    loaded = load(tmp_path)
    assert loaded["number"] == 1
    assert torch.equal(loaded["weights"], state(1)["weights"])
    assert loaded["nested"] == state(1)["nested"]


def test_the_previous_checkpoint_is_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save(tmp_path, state(number))
    assert load(tmp_path)["number"] == 3
    assert torch.load(tmp_path / PREVIOUS, weights_only=True)["number"] == 2
    assert files(tmp_path) == {FILE, PREVIOUS}


def fail(error: BaseException) -> Any:
    def failing(*_: object, **__: object) -> None:
        raise error

    return failing


def write_half(_: object, file: Any) -> None:
    file.write(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "broken, how",
    [
        ("torch.save", write_half),
        ("torch.save", fail(RuntimeError("[enforce fail at inline_container.cc] unexpected pos"))),
        ("torch.save", fail(TypeError("cannot pickle"))),
        ("torch.save", fail(KeyboardInterrupt())),
        ("os.fsync", fail(OSError(errno.EIO, "input/output error"))),
        ("os.replace", fail(PermissionError(errno.EACCES, "denied"))),
    ],
    ids=["disk full", "torch's own error", "not to be pickled", "Ctrl-C", "sync fails", "rename fails"],
)
def test_a_failed_write_leaves_the_old_checkpoint_and_no_litter(
    broken: str, how: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, state(1))
    before = (tmp_path / FILE).read_bytes()
    with monkeypatch.context() as patch, pytest.raises((OSError, TypeError, KeyboardInterrupt)):
        patch.setattr(broken, how)
        save(tmp_path, state(2))
    assert (tmp_path / FILE).read_bytes() == before
    assert files(tmp_path) - {PREVIOUS} == {FILE}
    save(tmp_path, state(3))
    assert load(tmp_path)["number"] == 3


def test_a_disk_that_is_really_full_is_an_os_error_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, state(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # bytes a file may have
        with pytest.raises(OSError):
            save(tmp_path, state(2, size=100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load(tmp_path)["number"] == 1
    assert files(tmp_path) == {FILE}


def test_a_checkpoint_is_synced_to_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, original=original: (calls.append(name), original(*a))[1])
    save(tmp_path, state(1))
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, and the folder that holds the name


def test_a_file_system_without_hard_links_gets_its_checkpoints_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", fail(PermissionError(errno.EPERM, "operation not permitted")))
    save(tmp_path, state(1))
    save(tmp_path, state(2))
    assert load(tmp_path)["number"] == 2


def test_a_temporary_file_left_by_a_kill_does_no_harm(tmp_path: Path) -> None:
    save(tmp_path, state(1))
    for name in (f"{FILE}.tmp", f"{PREVIOUS}.tmp"):
        (tmp_path / name).write_bytes(b"half")
    assert load(tmp_path)["number"] == 1
    save(tmp_path, state(2))
    assert load(tmp_path)["number"] == 2
    assert files(tmp_path) == {FILE, PREVIOUS}


def test_loading_runs_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"version": checkpoint.VERSION, "trap": Trap()}, tmp_path / FILE)
    with pytest.raises(
        BadCheckpoint, match=r"refused and nothing of it was run: it names the function posix\.mkdir"
    ) as e:
        load(tmp_path)
    assert "torch" not in str(e.value) and "\n" not in str(e.value)
    assert not (tmp_path / "sprung").exists()


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused_at_once(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / FILE, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in range(4):
            archive.writestr(f"archive/data/{part}", bytes(50_000_000))
    assert (tmp_path / FILE).stat().st_size < 1_000_000
    start = time.perf_counter()
    with pytest.raises(BadCheckpoint, match="unpacks to more than it is"):
        load(tmp_path)
    assert time.perf_counter() - start < 0.1  # reading it takes half a second


def test_parts_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """Many names for one range of the file: nothing is compressed, and all together is still a bomb."""
    with zipfile.ZipFile(tmp_path / FILE, "w") as archive:
        archive.writestr("archive/data/0", bytes(1_000_000))
        archive.filelist *= 50
    with pytest.raises(BadCheckpoint, match="unpacks to more than it is"):
        load(tmp_path)


@pytest.mark.parametrize("name", [FILE, PREVIOUS, f"{FILE}.tmp", f"{PREVIOUS}.tmp"])
def test_a_planted_link_is_not_followed(name: str, tmp_path: Path) -> None:
    precious, run = tmp_path / "precious", tmp_path / "run"
    precious.write_text("mine")
    run.mkdir()
    (run / name).symlink_to(precious)
    for number in (1, 2, 3):
        save(run, state(number))
    assert precious.read_text() == "mine"
    assert not [path for path in run.iterdir() if path.is_symlink()]
    assert load(run)["number"] == 3


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BadCheckpoint, match=r"no checkpoint in .*is it the folder of a run\?"):
            load(folder)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not a checkpoint"])
def test_a_damaged_checkpoint_is_refused_with_a_way_out(damage: Any, tmp_path: Path) -> None:
    save(tmp_path, state(1))
    save(tmp_path, state(2))
    path = tmp_path / FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadCheckpoint) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    advice = f"mv {tmp_path / PREVIOUS} {path}"
    assert advice in message
    (tmp_path / PREVIOUS).replace(path)  # as advised
    assert load(tmp_path)["number"] == 1


def test_a_damaged_checkpoint_without_an_older_one_promises_none(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a checkpoint")
    with pytest.raises(BadCheckpoint, match="cannot be read") as caught:
        load(tmp_path)
    assert PREVIOUS not in str(caught.value)


def test_another_format_is_refused_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "VERSION", 999)
        save(tmp_path, state(1))
    with pytest.raises(BadCheckpoint, match=f"format 999.*reads format {checkpoint.VERSION}"):
        load(tmp_path)


def test_where_only_the_older_one_is_left_it_is_pointed_to(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, state(number))
    (tmp_path / FILE).unlink()
    with pytest.raises(BadCheckpoint, match=rf"no checkpoint in .*mv .*{PREVIOUS}"):
        load(tmp_path)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    save(tmp_path, state(1, size=1000))
    path = tmp_path / FILE
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((1000,), 1.0).numpy().tobytes()) + 2] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match=r"cannot be read.*damaged"):
        load(tmp_path)
