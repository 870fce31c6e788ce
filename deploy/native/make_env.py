#!/usr/bin/env python3
"""Write .env with random passwords, where there is none; an existing one is never touched.

Exit code 1 where an existing one lacks a password that compose.yaml reads: an earlier version wrote it.
"""

import os
import secrets
import sys
from pathlib import Path

ENV = Path(__file__).resolve().parents[2] / ".env"

# what compose.yaml reads; .env.example explains each and lists what else can be set
CONTENTS = """\
# Written by `make env`. Each setting is explained in .env.example.
MINIO_ACCESS_KEY=acequia
MINIO_SECRET_KEY={minio}
RABBITMQ_USER=acequia
RABBITMQ_PASSWORD={rabbitmq}
PG_USER=acequia_auditor
PG_PASSWORD={auditor}
PG_MIGRATION_USER=acequia
PG_MIGRATION_PASSWORD={postgresql}
PG_DATABASE=acequia
ACEQUIA_LAKEHOUSE_PASSWORD={lakehouse}
"""


def main(path: Path = ENV) -> int:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{path.name} is there already and stays as it is", file=sys.stderr)
        set_there = {line.partition("=")[0].strip() for line in path.read_text().splitlines()}
        needed = [line.partition("=")[0] for line in CONTENTS.splitlines() if line.endswith("}")]
        if missing := [name for name in needed if name not in set_there]:
            print(f"but it lacks {', '.join(missing)}: .env.example explains them; add them by hand", file=sys.stderr)
            return 1
        return 0
    # hexadecimal: safe in URLs, in YAML and in shells
    passwords = {name: secrets.token_hex(20) for name in ("minio", "rabbitmq", "postgresql", "auditor", "lakehouse")}
    with open(descriptor, "w") as file:  # noqa: PTH123
        file.write(CONTENTS.format(**passwords))
    print(f"{path.name}: written, with random passwords", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
