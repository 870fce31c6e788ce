import os
import shutil
import subprocess
from pathlib import Path

import parts
import pytest


def test_only_the_pinned_minio_is_taken_from_gos_bin_folder():
    text = "/go/bin/minio: go1.26.8\n\tpath\tgithub.com/minio/minio\n\tmod\tgithub.com/minio/minio\t{}\th1:x=\n"
    assert parts.is_pinned_minio(text.format(parts.MINIO_VERSION))
    assert not parts.is_pinned_minio(text.format("v0.0.0-20250101000000-000000000000"))
    assert not parts.is_pinned_minio("")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("go version go1.19 linux/amd64", (1, 19)),
        ("2:1.24~2", (1, 24)),
        ("(none)", ()),
        ("", ()),
    ],
)
def test_gos_version_is_read_from_go_and_from_apt(text, version):
    assert parts.go_version(text) == version
    assert (version >= parts.GO_MINIMUM) == (version in {(1, 26), (1, 24)})


def test_minio_is_found_in_the_cache_without_go(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(parts, "find_go", lambda: None)
    assert parts.find_minio() is None
    cached = parts.cached_minio()
    cached.parent.mkdir(parents=True)
    cached.write_text("")
    cached.chmod(0o755)
    assert parts.find_minio() == cached


def test_a_policy_that_is_there_already_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "POLICY", tmp_path / "policy-rc.d")
    with parts._services_stay_off():
        assert parts.POLICY.stat().st_mode & 0o111
    assert not parts.POLICY.exists()
    parts.POLICY.write_text("theirs")
    with parts._services_stay_off():
        pass
    assert parts.POLICY.read_text() == "theirs"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_after_an_installation_only_the_port_mapper_that_it_started_is_taken_for_its_own(tmp_path):
    program = tmp_path / "epmd"
    shutil.copy(shutil.which("cat"), program)
    processes = [
        subprocess.Popen(
            [program], env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        for environment in ({}, {parts.APT_MARK: str(os.getpid())})
    ]
    try:
        for process in processes:  # an answer: name and environment of a process are its own only some time after exec
            process.stdin.write(b"up")
            assert process.stdout.read(2) == b"up"
        assert list(parts._port_mappers_of_apt()) == [processes[1].pid]
    finally:
        for process in processes:
            with process:
                process.kill()
