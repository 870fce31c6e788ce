"""The services, by the address of the installation: what each says of itself."""

from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx

from acequia_cli.doctor.findings import Chart

INGESTOR, AUDITOR, RECONCILER = "ingestor", "auditor", "reconciler"
_SECONDS = 10.0


async def examine_services(chart: Chart, url: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
    """The ingestor's /ready; the auditor and the reconciler through it, by a call that does nothing."""
    async with httpx.AsyncClient(base_url=url, timeout=_SECONDS, transport=transport) as client:
        if not await _ready(chart, client, url):
            chart.skip((AUDITOR, RECONCILER), f"{INGESTOR} failed")
            return
        await _through(chart, AUDITOR, client, "GET", "/runs?limit=1", HTTPStatus.OK)
        await _through(chart, RECONCILER, client, "POST", "/replays", HTTPStatus.UNPROCESSABLE_ENTITY)


async def _ready(chart: Chart, client: httpx.AsyncClient, url: str) -> bool:
    name = INGESTOR
    try:
        answer = await client.get("/ready")
    except httpx.HTTPError as error:
        chart.fail(
            name,
            f"{url} does not answer: {error or type(error).__name__}",
            f"start the {name} (`docker compose up -d {name}`), or give its address with --url",
        )
        return False
    document = _document(answer)
    if answer.status_code == HTTPStatus.OK:
        chart.ok(name, f"{url} is ready")
        return True
    if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE and "detail" in document:
        chart.fail(name, f"{url} is not ready: {document['detail']}", "mend that part; the service goes on by itself")
        return False
    chart.fail(
        name,
        f"{url}/ready answers {answer.status_code}: this is none of our services",
        f"give the {name}'s address with --url ({urlsplit(url).scheme}://host:8000 by default)",
    )
    return False


async def _through(
    chart: Chart, name: str, client: httpx.AsyncClient, method: str, path: str, expected: HTTPStatus
) -> None:
    """Whether the ingestor reaches `name`: a call that it hands on, whose answer only `name` can give."""
    try:
        answer = await client.request(method, path, json={} if method == "POST" else None)
    except httpx.HTTPError as error:
        chart.fail(name, f"{path} does not answer: {error or type(error).__name__}", f"see the {name}'s log")
        return
    if answer.status_code == expected:
        chart.ok(name, "answers through the ingestor")
        return
    said = _document(answer).get("detail") or f"{method} {path} answers {answer.status_code}"
    chart.fail(
        name,
        str(said),
        f"start the {name} (`docker compose up -d {name}`), and set ACEQUIA_INGESTOR_{name.upper()}_URL of the "
        "ingestor to where it answers",
    )


def _document(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
