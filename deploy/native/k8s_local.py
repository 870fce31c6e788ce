#!/usr/bin/env python3
"""What `kubectl apply -k deploy/k8s/overlays/local` needs first: images, in the cluster, and secrets.

k8s_local.py                    secrets, images, and the images into the cluster
k8s_local.py secrets [FOLDER]   only the secrets, where there are none yet; those that are there are never touched

How images get into a cluster: K8S_LOAD is a command that the images' names are appended to (`true`: nowhere); without
it the current context of kubectl tells: kind, minikube, k3d and Docker Desktop are known. K8S_TAG: the images' tag, for
an overlay of one's own.
"""

import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OVERLAY = ROOT / "deploy/k8s/overlays/local"
TAG = os.environ.get("K8S_TAG") or "k8s"
SERVICES = ("ingestor", "transformer", "trainer", "evaluator", "lakehouse", "auditor", "reconciler", "cli")
SERVERS = ("rabbitmq:4-management", "postgres:17-trixie")
"""The cluster pulls them by itself; one that can't gets those that the engine has by K8S_LOAD."""
MINIO = f"acequia-minio:{TAG}"


class Failed(Exception):
    """What a person has to mend."""


def main(argv: Sequence[str]) -> int:
    try:
        match list(argv):
            case []:
                write_secrets(OVERLAY / "secrets")
                load = loader()  # before the images, which take minutes
                images = list(build_images())
                if "K8S_LOAD" in os.environ:
                    images += filter(_there, SERVERS)
                load_images(load, images)
                say("now: kubectl apply -k deploy/k8s/overlays/local")
                say("pods that run keep the image they have: kubectl -n acequia rollout restart deployment")
            case ["secrets", *folder] if len(folder) <= 1:
                write_secrets(Path(folder[0]) if folder else OVERLAY / "secrets")
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (Failed, subprocess.CalledProcessError) as error:
        say(f"FAILED: {error}")
        return 1
    return 0


# secrets


def write_secrets(folder: Path) -> None:
    """All of them, or none: they name each other's passwords."""
    found = sorted(folder.glob("*.env"))
    contents = new_secrets()
    if found:
        if missing := sorted(contents.keys() - {path.name for path in found}):
            raise Failed(
                f"{folder} lacks {', '.join(missing)}, and what is there is not touched: add them by hand, or remove "
                "all of them, and the volumes that know them (kubectl delete namespace acequia)"
            )
        say(f"{folder.name}/: there already, stays as it is")
        return
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name, values in contents.items():
        with open(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
            file.writelines(f"{key}={value}\n" for key, value in values.items())
    say(f"{folder.name}/: written, with random passwords")


def new_secrets() -> Mapping[str, Mapping[str, str]]:
    """By file: what the overlay's secretGenerator reads."""
    # hexadecimal: safe in URLs, in YAML and in shells
    minio, rabbitmq, owner, auditor, lakehouse = (secrets.token_hex(20) for _ in range(5))
    at = "postgres:5432"
    return {
        "minio.env": {"MINIO_ACCESS_KEY": "acequia", "MINIO_SECRET_KEY": minio},
        "rabbitmq.env": {
            "RABBITMQ_USER": "acequia",
            "RABBITMQ_PASSWORD": rabbitmq,
            "RABBITMQ_URL": f"amqp://acequia:{rabbitmq}@rabbitmq:5672/",
        },
        "audit-owner.env": {"PG_MIGRATION_USER": "acequia", "PG_MIGRATION_PASSWORD": owner},
        "audit-database.env": {"PG_USER": "acequia_auditor", "PG_PASSWORD": auditor},
        "lakehouse-owner.env": {"ACEQUIA_LAKEHOUSE_OWNER_URI": f"postgresql://acequia:{owner}@{at}/acequia"},
        "lakehouse-catalog.env": {
            "ACEQUIA_LAKEHOUSE_CATALOG_URI": (
                f"postgresql+psycopg://acequia_lakehouse:{lakehouse}@{at}/acequia_lakehouse"
            )
        },
    }


# images


def build_images() -> Sequence[str]:
    """Their names, MinIO's the last."""
    images = []
    for service in SERVICES:
        images.append(f"acequia-{service}:{TAG}")
        say(f"building {images[-1]}")
        _run("docker", "build", "--quiet", "--build-arg", f"SERVICE={service}", "--tag", images[-1], str(ROOT))
    say(f"building {MINIO} (minutes the first time)")
    _run("docker", "build", "--quiet", "--tag", MINIO, str(ROOT / "deploy/minio"))
    return [*images, MINIO]


def loader() -> Sequence[str]:
    """The command that images' names are appended to; none where the cluster has the engine's images."""
    if command := os.environ.get("K8S_LOAD"):
        return shlex.split(command)
    try:
        context = _run("kubectl", "config", "current-context").strip()
    except subprocess.CalledProcessError as error:
        raise Failed("kubectl has no current context: which cluster is meant?") from error
    kind, _, name = context.partition("-")
    match kind:
        case "docker":  # docker-desktop
            return ()
        case "kind":
            return ("kind", "load", "docker-image", "--name", name)
        case "k3d":
            return ("k3d", "image", "import", "--cluster", name)
        case "minikube":
            return ("minikube", "image", "load")
    raise Failed(
        f"how do images get into the cluster of the context {context!r}? Say it by K8S_LOAD='<command>': the images' "
        "names are appended"
    )


def load_images(load: Sequence[str], images: Sequence[str]) -> None:
    if load:
        say(f"into the cluster: {shlex.join(load)} {' '.join(images)}")
        _run(*load, *images)


def say(text: str) -> None:
    print(f"k8s-local: {text}", file=sys.stderr, flush=True)


def _there(image: str) -> bool:
    done = subprocess.run(["docker", "image", "inspect", image], check=False, capture_output=True)
    return done.returncode == 0


def _run(*command: str) -> str:
    """What it prints on standard output."""
    try:
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    except OSError as error:
        raise Failed(f"{command[0]} can't be run, and is needed here: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
