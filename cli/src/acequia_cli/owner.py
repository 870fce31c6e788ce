"""Who owns an installation's folder: the process says so in a file, for other commands to talk to."""

import json
import os
from pathlib import Path

import httpx

SERVER_FILE = "server.json"
"""In the data folder of an `acequia up`: its URL and process id."""


def owner_url(data: Path) -> str | None:
    """Where the process that owns the folder answers, or None where none serves it."""
    try:
        document = json.loads((data / SERVER_FILE).read_text())
        os.kill(document["pid"], 0)
        url = str(document["url"])
        httpx.get(f"{url}/health", timeout=5).raise_for_status()
    except (OSError, ValueError, KeyError, TypeError, httpx.HTTPError):
        return None
    return url
