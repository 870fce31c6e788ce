"""The Dockerfiles read as text: what a build would not complain about, and a user would."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SERVICE = (ROOT / "Dockerfile").read_text()
MINIO = (ROOT / "deploy/minio/Dockerfile").read_text()


def instructions(text: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", "", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [line for line in joined.splitlines() if line.strip()]


def final_stage(text: str) -> list[str]:
    lines = instructions(text)
    return lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")) :]


def test_only_these_base_images_are_used():
    assert re.findall(r"(?m)^FROM (\S+)", SERVICE) == ["python:3.13-slim-trixie"] * 2
    assert re.findall(r"(?m)^FROM (\S+)", MINIO) == ["golang:1-trixie", "debian:trixie-slim"]


@pytest.mark.parametrize("text", [SERVICE, MINIO], ids=["service", "minio"])
def test_it_builds_with_the_engine_alone_and_names_no_registry(text):
    assert "syntax=" not in text  # it would be fetched from a registry
    assert not re.search(r"index-url|INDEX_URL|GOPROXY|https?://", text)


@pytest.mark.parametrize("text", [SERVICE, MINIO], ids=["service", "minio"])
def test_the_final_image_runs_as_a_user_with_a_number_that_is_not_root(text):
    users = [line.split()[1] for line in final_stage(text) if line.startswith("USER ")]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])  # a number: Kubernetes can check that it is not root


def test_the_final_image_of_a_service_has_no_tools_to_build_with():
    assert not any(re.search(r"\b(uv|pip|apt-get)\b", line) for line in final_stage(SERVICE))


def test_other_peoples_packages_are_a_layer_of_their_own_and_come_from_the_lock():
    lines = instructions(SERVICE)
    syncs = [i for i, line in enumerate(lines) if "uv sync" in line]
    sources = min(i for i, line in enumerate(lines) if re.match(r"COPY (shared|services|cli) ", line))
    assert len(syncs) == 2
    assert syncs[0] < sources < syncs[1]
    assert "--no-install-workspace" in lines[syncs[0]]
    assert all("--locked" in lines[i] and "--no-dev" in lines[i] for i in syncs)


def test_every_member_of_the_workspace_is_known_before_its_packages_are_installed():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]
    members = {p.parent.relative_to(ROOT).as_posix() for m in patterns for p in ROOT.glob(f"{m}/pyproject.toml")}
    assert members == set(re.findall(r"(?m)^COPY (\S+)/pyproject.toml ", SERVICE))


def test_minio_is_the_same_version_natively_and_in_its_image():
    native = re.search(r'MINIO_VERSION = "(\S+)"', (ROOT / "deploy/native/parts.py").read_text())[1]
    assert re.search(r"ARG MINIO_VERSION=(\S+)", MINIO)[1] == native


def test_secrets_and_data_stay_out_of_the_build():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"  # nothing but what is named
    named = {line[1:] for line in patterns if line.startswith("!")}
    assert named == {"pyproject.toml", "uv.lock", "shared", "services", "cli", "deploy/service"}
