"""The README's curl examples, pasted as they stand."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"


def _is_whole(file: Path) -> bool:
    return file.exists() and file.read_text().endswith("}")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of an `acequia up` of the test's own."""
    tmp_path.chmod(0o755)  # as root, PostgreSQL runs as another user, who has to get in
    data = tmp_path / "data"
    command = [sys.executable, "-m", "acequia_cli.main", "up", "--port", "0", "--data", str(data)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not _is_whole(data / "server.json"):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"`acequia up` did not start: {process.communicate()[1]}")
        time.sleep(0.1)
    yield str(json.loads((data / "server.json").read_text())["url"])
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_examples_work_as_pasted(served: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    script = "\n".join(blocks)
    script, replaced = re.subn(r"^ACEQUIA=http.*$", f"ACEQUIA={served}", script, flags=re.MULTILINE)
    assert replaced == 1
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        ["bash", "-eu", "-c", script], cwd=tmp_path / "here", capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "HTTP/1.1 202 Accepted" in done.stdout
    assert re.search(r"^location: /ingestions/[0-9a-f-]{36}", done.stdout, re.MULTILINE)
    assert re.search(r"^[0-9a-f]{8}-[0-9a-f-]{27}$", done.stdout, re.MULTILINE), "no run id was cut out of an answer"
    for told in (
        '"rows_in": 5',
        '"rows_silver": 2',
        '"rows_duplicate": 1',
        '"rows_quarantined": 2',
        '"finished": true',
    ):
        assert told in done.stdout
    lineage = json.loads(done.stdout[done.stdout.index('{\n    "node"') :])
    assert {"landing", "raw", "silver", "models", "eval"} <= {node["layer"] for node in lineage["nodes"]}
