"""The command: which parts there are to examine, in which order."""

import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dotenv import dotenv_values
from pydantic_settings import BaseSettings
from rich.text import Text

from acequia.adapters.minio_probe import MinioProbe
from acequia.adapters.rabbit_probe import RabbitProbe
from acequia.errors import ConfigurationError
from acequia.settings import AcequiaSettings, MinioSettings, PostgresSettings, RabbitSettings, load
from acequia.topology import topology
from acequia_cli.commands import Output
from acequia_cli.complaints import DONE, FAILED, WrongUse
from acequia_cli.doctor import broker, database, events, store
from acequia_cli.doctor.embedded import examine_embedded
from acequia_cli.doctor.findings import Chart, Finding, State
from acequia_cli.doctor.here import examine_folder
from acequia_cli.doctor.services import examine_services

SERVERS = ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "RABBITMQ_URL", "PG_HOST", "PG_PASSWORD")
"""Any of these set: there are servers to examine, and not the embedded installation."""
SETTINGS, TEMP = "settings", "temporary folder"
CHECK_WIDTH = 20
COLOURS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "bold red", State.SKIPPED: "dim"}

S = TypeVar("S", bound=BaseSettings)


@dataclass(frozen=True, slots=True)
class Doctor:
    data: Path
    url: str | None = None
    env_file: Path | None = None
    patience: float = events.PATIENCE
    pause: float = broker.BETWEEN_LOOKS

    async def run(self, output: Output) -> int:
        if self.env_file is not None and not self.env_file.is_file():
            raise WrongUse(f"{self.env_file}: no such file")
        for noisy in ("aio_pika", "aiormq"):  # what is wrong is told once, by the check
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        chart = Chart((lambda _: None) if output.as_json else lambda finding: _print(output, finding))
        await self._examine(chart)
        output.document(chart.document())
        if not output.as_json:
            output.remark(f"\n{chart.verdict()}")
        return FAILED if chart.failed() else DONE

    async def _examine(self, chart: Chart) -> None:
        named = self._named()
        settings = self._load(chart, AcequiaSettings)
        if settings is None:
            return
        examine_folder(chart, TEMP, settings.temp_dir or Path(tempfile.gettempdir()), "ACEQUIA_TEMP_DIR")
        if named:
            await self._examine_servers(chart, settings, named)
        elif not self.url:
            await examine_embedded(chart, self.data, settings)
        if self.url:
            await examine_services(chart, self.url)

    def _named(self) -> Mapping[str, str]:
        """What is set of the servers' settings: in the environment, else in the file."""
        file = dotenv_values(self.env_file) if self.env_file is not None else {}
        every = {name.upper(): value for name, value in (file | os.environ).items()}
        return {name: value for name in SERVERS if (value := every.get(name))}

    def _load(self, chart: Chart, kind: type[S]) -> S | None:
        """As a service reads them; the environment comes before the file."""
        try:
            return load(kind, _env_file=self.env_file)
        except ConfigurationError as error:
            where = f"in {self.env_file} or in the environment" if self.env_file else "in the environment"
            chart.fail(SETTINGS, str(error), f"set them {where}, as .env.example shows")
            return None

    async def _examine_servers(self, chart: Chart, settings: AcequiaSettings, named: Mapping[str, str]) -> None:
        table = topology(settings.buckets, settings.retry_delays)
        minio, rabbit = self._load(chart, MinioSettings), self._load(chart, RabbitSettings)
        async with AsyncExitStack() as stack:
            bus = there = None
            if rabbit is not None:
                with chart.examining(broker.ADDRESS, broker.URL_WANTED):
                    bus = await stack.enter_async_context(RabbitProbe(rabbit, timeout=5))
                if bus is None:
                    chart.skip((broker.LOGIN, *broker.AFTER_LOGIN), f"{broker.ADDRESS} failed")
                elif not await broker.examine_broker(chart, bus, table):
                    bus = None
            if minio is not None:
                with chart.examining(store.ADDRESS, store.START_MINIO):
                    there = await stack.enter_async_context(await MinioProbe.open(minio, settings.buckets))
                if there is None:
                    chart.skip(store.AFTER_ADDRESS, f"{store.ADDRESS} failed")
            right = await store.examine_store(chart, there, table) if there is not None else ()
            if there is None or bus is None or chart.failed(broker.EXCHANGES) or not right:
                chart.skip((events.EVENTS,), "there is no broker, or no store, or no bucket that would tell")
            else:
                await events.examine_events(chart, there, bus, right, settings.buckets, patience=self.patience)
            if bus is not None:
                reachable = there is not None and not chart.failed(store.ADDRESS, store.LOGIN)
                await broker.examine_traffic(chart, bus, there if reachable else None, table, pause=self.pause)
                await broker.examine_dead_lettering(chart, bus)
        await self._examine_database(chart, named)

    async def _examine_database(self, chart: Chart, named: Mapping[str, str]) -> None:
        if not any(name.startswith("PG_") for name in named):
            chart.skip((database.DATABASE,), "no PG_* is set here: only the auditor needs them")
            return
        postgres = self._load(chart, PostgresSettings)
        if postgres is not None:
            await database.examine_database(chart, postgres)


def _print(output: Output, finding: Finding) -> None:
    text = Text("\n".join(finding.lines(CHECK_WIDTH)))
    text.stylize(COLOURS[finding.state], 0, len(finding.state.value))
    output.console.print(text, soft_wrap=True, highlight=False)
