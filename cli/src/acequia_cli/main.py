"""The `acequia` command. What a command needs is imported when it runs, so that `acequia --help` comes at once."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acequia_cli.several import SeveralValues

if TYPE_CHECKING:
    from acequia_cli.connection import Where
    from acequia_cli.stored import Chosen

app = typer.Typer(
    name="acequia",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here: [bold]acequia demo[/]. It needs nothing but this command and takes a few seconds.",
)
ingest = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
audit = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(ingest, name="ingest", help="Bring events in, and wait until they are a model with its evaluation.")
dlq = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
samples = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(samples, name="samples", help="Write sample files, to try things with.")
settings = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(settings, name="config", help="The settings file with its environments: acequia.toml.")
app.add_typer(audit, name="audit", help="Look after the audit database.")
app.add_typer(dlq, name="dlq", help="Dead letters: work that failed on every retry. See it, replay it, discard it.")
schedules = typer.Typer(rich_markup_mode="rich")
app.add_typer(schedules, name="schedules")
warehouse = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(warehouse, name="warehouse", help="All tables in a DuckDB file, for other programs.")
lake = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(lake, name="lake", help="The lakehouse's tables: see them, keep them in order.")


class QueryFormat(StrEnum):
    """How a query's rows are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    NDJSON = "ndjson"
    PARQUET = "parquet"


class ReadLayer(StrEnum):
    """A layer whose objects are read by a stage."""

    LANDING = "landing"
    RAW = "raw"
    SILVER = "silver"
    MODELS = "models"


class LetterState(StrEnum):
    """What became of a dead letter."""

    OPEN = "open"
    DISCARDED = "discarded"
    REPLAYED = "replayed"
    ALL = "all"


class RunState(StrEnum):
    """How far a run is."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    SAME_CONTENT = "same_content"
    IMPORTED = "imported"


Data = Annotated[
    Path,
    typer.Option("--data", envvar="ACEQUIA_DATA", metavar="DIR", help="Folder of the embedded installation."),
]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="ACEQUIA_URL", metavar="URL", help="A running installation, instead of --data."),
]
Env = Annotated[
    str | None,
    typer.Option("--env", metavar="NAME", help="An environment of the settings file; local is there without one."),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="ACEQUIA_CONFIG", metavar="FILE", help="The settings file, if not acequia.toml here."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on standard output.")]
Rows = Annotated[int, typer.Option("--rows", min=1, help="How many events to draw.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same events.")]
AnomalyRate = Annotated[
    float, typer.Option("--anomaly-rate", min=0.0, max=0.5, help="Share of the events that are labelled attacks.")
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0.0, metavar="SECONDS", help="Wait so long at most; the run itself goes on."),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return once the run is accepted, which makes it durable.")]
IdempotencyKey = Annotated[
    str | None,
    typer.Option("--idempotency-key", metavar="KEY", help="The same key and request give the same run, once."),
]
Grace = Annotated[
    float | None,
    typer.Option(
        "--grace", min=0.0, metavar="SECONDS", help="What is younger counts as in flight (default: the server's)."
    ),
]
Stage = Annotated[str | None, typer.Option("--stage", help="Only of this stage, for instance transformer.")]
OfDataset = Annotated[str | None, typer.Option("--dataset", help="Only of this dataset.")]
OlderThan = Annotated[
    str | None, typer.Option("--older-than", metavar="SPAN", help="Only those that died before: 90s, 15m, 2h, 7d.")
]
LetterIds = Annotated[
    list[str] | None, typer.Argument(metavar="ID...", help="Ids, or as much of each as no other begins with.")
]
AllLetters = Annotated[bool, typer.Option("--all", help="Every open one, or those that the options leave.")]
Csv = Annotated[
    str | None,
    typer.Option(
        "--csv",
        metavar="OPTIONS",
        help="How a CSV file that people made is read, where its content is not to tell: any of separator=;, "
        "decimal=,, dates=dmy|mdy|ymd, encoding=utf-8|latin-1|utf-16, timezone=..., commas between them.",
    ),
]
HiddenRows = Annotated[int | None, typer.Option("--filas", min=1, hidden=True)]
HiddenSeed = Annotated[int | None, typer.Option("--semilla", min=0, hidden=True)]
HiddenFile = Annotated[Path | None, typer.Option("--archivo", hidden=True)]

AnyData = Annotated[
    Path | None,
    typer.Option("--data", envvar="ACEQUIA_DATA", metavar="DIR", help="Folder of the embedded installation."),
]
EnvFile = Annotated[
    Path | None,
    typer.Option("--env-file", metavar="FILE", help="Settings, as in .env.example; the environment comes first."),
]
AsOf = Annotated[
    str | None,
    typer.Option("--as-of", metavar="SNAPSHOT|TIME", help="As it was: a snapshot's id, 2026-11-01T12:30Z, or 7d."),
]
Memory = Annotated[
    str, typer.Option("--memory-limit", metavar="SIZE", help="Memory to use: 2GB, 50%. What needs more uses disk.")
]

DEFAULT_DATA = Path(".acequia")
DEFAULT_MEMORY = "50%"


def _where(data: Path, url: str | None, env: str | None = None, config: Path | None = None) -> "Where":
    from acequia_cli.connection import Where  # noqa: PLC0415

    named = {
        "--data": data != DEFAULT_DATA and str(data) != os.environ.get("ACEQUIA_DATA"),
        "--url": url and url != os.environ.get("ACEQUIA_URL"),
    }
    if env is not None and env != "local" and (said := [name for name, is_said in named.items() if is_said]):
        raise typer.BadParameter(f"--env {env} says where Acequia is: choose one of both", param_hint=said[0])
    return Where(data, url or None, env, config)


def _chosen(
    data: Path | None, url: str | None, env_file: Path | None, environment: str | None, config: Path | None
) -> "Chosen":
    from acequia_cli.stored import Chosen  # noqa: PLC0415

    return Chosen(data, url or None, env_file, DEFAULT_DATA, environment, config)


def _carry_out(command: Any, as_json: bool) -> None:
    from acequia_cli.commands import carry_out  # noqa: PLC0415

    raise typer.Exit(carry_out(command, as_json=as_json))


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version as installed  # noqa: PLC0415

        typer.echo(f"acequia {installed('acequia-cli')}")
        raise typer.Exit


@app.callback(
    help="Network events in, an evaluated anomaly detector out; and of each artifact, where it came from.\n\n"
    "Without --url a command works on the embedded installation in --data: every service in one process, nothing to "
    "set up. If `acequia up` serves that folder, the command talks to it."
)
def acequia(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    rows: Rows = 10_000,
    seed: Seed = 7,
    anomaly_rate: AnomalyRate = 0.02,
    input: Annotated[
        Path | None,
        typer.Option("--input", metavar="FILE", help="A real file (a Zeek conn.log, CSV, Parquet) instead."),
    ] = None,
    data: Data = DEFAULT_DATA,
    timeout: Timeout = None,
    as_json: Json = False,
    filas: HiddenRows = None,
    semilla: HiddenSeed = None,
    archivo: HiddenFile = None,
) -> None:
    """Run the whole chain once, here, with nothing to set up, and show what came of it.

    Examples:
    acequia demo
    acequia demo --rows 100000 --seed 3
    acequia demo --input conn.log.gz
    """
    from acequia_cli.commands import Demo  # noqa: PLC0415

    _carry_out(
        Demo(
            _where(data, None),
            rows=filas or rows,
            seed=seed if semilla is None else semilla,
            anomaly_rate=anomaly_rate,
            file=archivo or input,
            timeout=timeout,
        ),
        as_json,
    )


@app.command()
def up(
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of the HTTP API; 0: any free one.")
    ] = 8000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    data: Data = DEFAULT_DATA,
    as_json: Json = False,
) -> None:
    """Serve the embedded installation's HTTP API until Ctrl-C.

    Examples:
    acequia up
    acequia up --port 9000 --data /srv/acequia
    """
    from acequia_cli.commands import Up  # noqa: PLC0415

    _carry_out(Up(data, port, host), as_json)


@ingest.command("synthetic")
def ingest_synthetic(
    dataset: Annotated[str, typer.Option("--dataset", help="`acequia datasets` lists them.")] = "network_events",
    rows: Rows = 10_000,
    seed: Seed = 7,
    anomaly_rate: AnomalyRate = 0.02,
    idempotency_key: IdempotencyKey = None,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
    filas: HiddenRows = None,
    semilla: HiddenSeed = None,
) -> None:
    """Ingest events drawn by the generator, with labelled attacks.

    Examples:
    acequia ingest synthetic --rows 50000 --seed 3
    acequia ingest synthetic --url http://127.0.0.1:8000 --no-wait
    """
    from acequia_cli.commands import IngestSynthetic  # noqa: PLC0415

    _carry_out(
        IngestSynthetic(
            _where(data, url, env, config),
            dataset=dataset,
            rows=filas or rows,
            seed=seed if semilla is None else semilla,
            anomaly_rate=anomaly_rate,
            idempotency_key=idempotency_key,
            wait=not no_wait,
            timeout=timeout,
        ),
        as_json,
    )


@ingest.command("file")
def ingest_file(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files; a quoted pattern will do too.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Detected if left out. `acequia datasets` lists them.")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="Detected if left out. `acequia formats` lists them.")
    ] = None,
    csv: Csv = None,
    idempotency_key: IdempotencyKey = None,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Ingest files of any size. The same content again makes nothing new, and says so.

    Examples:
    acequia ingest file conn.log
    acequia ingest file 'logs/conn.*.log.gz' --dataset network_events
    acequia ingest file events.csv --url http://127.0.0.1:8000
    acequia ingest file AYATSIL-123_all.csv --csv 'separator=;,decimal=,,dates=dmy'
    """
    from acequia_cli.commands import IngestFiles  # noqa: PLC0415

    _carry_out(
        IngestFiles(
            _where(data, url, env, config),
            paths=tuple(paths),
            dataset=dataset,
            format=format,
            csv=csv,
            idempotency_key=idempotency_key,
            wait=not no_wait,
            timeout=timeout,
        ),
        as_json,
    )


@ingest.command("tables", cls=SeveralValues)
def ingest_tables(
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "--tables", metavar="NAME...", help="Tables by their datasets' names; all of the pack if left out."
        ),
    ] = None,
    pack: Annotated[
        str | None,
        typer.Option("--pack", metavar="NAME", help="Tables that belong together, for instance subscriptions."),
    ] = None,
    connection: Annotated[
        str | None,
        typer.Option("--connection", metavar="NAME", help="The database of ACEQUIA_SOURCE_POSTGRES_<NAME>_DSN."),
    ] = None,
    full_refresh: Annotated[
        list[str] | None,
        typer.Option(
            "--full-refresh", metavar="[NAME...]", help="Read these anew in full, and swap them in at once; alone: all."
        ),
    ] = None,
    validate: Annotated[
        bool, typer.Option("--validate", help="List every check, and fail where one fails, also one that only warns.")
    ] = False,
    only_validate: Annotated[
        bool, typer.Option("--only-validate", help="Ask the checks, load nothing. A warning is no failure.")
    ] = False,
    idempotency_key: IdempotencyKey = None,
    no_wait: NoWait = False,
    timeout: Timeout = None,
    env: Env = None,
    config: Config = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    as_json: Json = False,
    tablas: Annotated[list[str] | None, typer.Option("--tablas", hidden=True)] = None,
    paquete: Annotated[str | None, typer.Option("--paquete", hidden=True)] = None,
    refrescar: Annotated[list[str] | None, typer.Option("--refrescar", hidden=True)] = None,
    refrescar_todo: Annotated[bool, typer.Option("--refrescar-todo", hidden=True)] = False,
    validar: Annotated[bool, typer.Option("--validar-calidad-datos", hidden=True)] = False,
    solo_validar: Annotated[bool, typer.Option("--solo-validar", hidden=True)] = False,
    sin_esperar: Annotated[bool, typer.Option("--sin-esperar", hidden=True)] = False,
    entorno: Annotated[str | None, typer.Option("--entorno", hidden=True)] = None,
) -> None:
    """Load tables of a database: what changed since the last time, or all of a table. Then ask its quality checks.

    An environment that names a store and no url does it in this one process, and ends with it (docs/one-shot.md).

    Exit code 0: all is well, and what checks only warn of is told.
    1: a table was rejected, blocked or quarantined, a stage failed, or --timeout passed.
    2: it was asked for wrongly, or a setting is wrong.

    Examples:
    acequia ingest tables --env local --tables accounts subscriptions
    acequia ingest tables --env prod --full-refresh accounts content_attributes --validate
    acequia ingest tables --only-validate --tables payments
    """
    from acequia_cli.several import ALL, names  # noqa: PLC0415
    from acequia_cli.tables import IngestTables  # noqa: PLC0415

    _carry_out(
        IngestTables(
            _where(data, url, entorno or env, config),
            tables=names(tables, tablas),
            full_refresh=names(full_refresh, refrescar, [ALL] if refrescar_todo else None),
            pack=paquete or pack,
            connection=connection,
            validate=validate or validar,
            only_validate=only_validate or solo_validar,
            idempotency_key=idempotency_key,
            wait=not (no_wait or sin_esperar),
            timeout=timeout,
        ),
        as_json,
    )


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that files are left in.")],
    once: Annotated[
        bool, typer.Option("--once", help="Bring in what is there now, wait until it is in, and end: for cron.")
    ] = False,
    move_to: Annotated[
        Path | None,
        typer.Option(
            "--move-to",
            metavar="DIR",
            help="Move files there that are in; those that were rejected to rejected/ in it.",
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave files where they are (default).")] = False,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Also in the folders below.")] = False,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            "--pattern",
            metavar="PATTERN",
            help="Only files of such a name, may be repeated (default: the datasets' patterns; with --dataset, all).",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="What they all are. `acequia datasets` lists them.")
    ] = None,
    format: Annotated[str | None, typer.Option("--format", help="Detected if left out.")] = None,
    csv: Csv = None,
    settle: Annotated[
        float, typer.Option("--settle", min=0.0, metavar="SECONDS", help="A file counts once it is unchanged so long.")
    ] = 5.0,
    every: Annotated[
        float, typer.Option("--every", min=0.1, metavar="SECONDS", help="Look so often into the folder.")
    ] = 2.0,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
    una_vez: Annotated[bool, typer.Option("--una-vez", hidden=True)] = False,
    mover_a: Annotated[Path | None, typer.Option("--mover-a", hidden=True)] = None,
    conservar: Annotated[bool, typer.Option("--conservar", hidden=True)] = False,
    recursivo: Annotated[bool, typer.Option("--recursivo", hidden=True)] = False,
    patron: Annotated[list[str] | None, typer.Option("--patron", hidden=True)] = None,
) -> None:
    """Bring in each file that is left in a folder, once, until Ctrl-C.

    It can be stopped and started at any time: what was sent before is known by its content and its name.
    With --once the exit code is 1 where a file was rejected, or is still being written.

    Examples:
    acequia watch /srv/wells --url http://127.0.0.1:8000
    acequia watch /srv/wells --recursive --move-to /srv/wells/done
    acequia watch inbox --once --dataset network_events --pattern '*.log'
    """
    from acequia_cli.watch import Watch  # noqa: PLC0415

    moved = mover_a or move_to
    if (keep or conservar) and moved:
        raise typer.BadParameter("a file is either kept or moved", param_hint="--keep")
    _carry_out(
        Watch(
            _where(data, url, env, config),
            folder,
            once=once or una_vez,
            move_to=moved,
            recursive=recursive or recursivo,
            patterns=tuple(patron or pattern or ()),
            dataset=dataset,
            format=format,
            csv=csv,
            settle=settle,
            every=every,
        ),
        as_json,
    )


@samples.command("oilfield")
def samples_oilfield(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write them; made if it is not there.")],
    wells: Annotated[int, typer.Option("--wells", min=1, max=10_000, help="Three files for each.")] = 8,
    days: Annotated[int, typer.Option("--days", min=1, max=3_660, help="How long the sensors measured.")] = 7,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same files.")] = 7,
    as_json: Json = False,
    pozos: Annotated[int | None, typer.Option("--pozos", min=1, max=10_000, hidden=True)] = None,
    dias: Annotated[int | None, typer.Option("--dias", min=1, max=3_660, hidden=True)] = None,
    semilla: HiddenSeed = None,
) -> None:
    """Write files as an oilfield has them: sensors, pumps and events of wells, as eight kinds of people export CSV.

    Some of their rows are wrong, as in life: they are meant to be found.

    Example:
    acequia samples oilfield wells --wells 3 --days 2
    """
    from acequia_cli.samples import WriteOilfieldSamples  # noqa: PLC0415

    chosen = seed if semilla is None else semilla
    _carry_out(WriteOilfieldSamples(folder, pozos or wells, dias or days, chosen), as_json)


@samples.command("subscriptions")
def samples_subscriptions(
    dsn: Annotated[
        str, typer.Option("--dsn", help="An empty database: postgresql://user:password@host:5432/name", metavar="DSN")
    ],
    accounts: Annotated[int, typer.Option("--accounts", min=1, max=5_000_000, help="Eleven rows for each.")] = 200,
    changes: Annotated[
        int, typer.Option("--changes", min=0, max=5_000_000, help="Change about so many rows of one that is there.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same rows.")] = 7,
    as_json: Json = False,
    cuentas: Annotated[int | None, typer.Option("--cuentas", min=1, max=5_000_000, hidden=True)] = None,
    cambios: Annotated[int | None, typer.Option("--cambios", min=0, max=5_000_000, hidden=True)] = None,
    semilla: HiddenSeed = None,
) -> None:
    """Make the sample database of the subscription pack: eight tables with what databases have in them.

    Examples:
    acequia samples subscriptions --dsn postgresql://postgres@localhost/shop
    acequia samples subscriptions --dsn postgresql://postgres@localhost/shop --changes 100
    """
    from acequia_cli.sample_database import MakeSampleDatabase  # noqa: PLC0415

    chosen = seed if semilla is None else semilla
    many = changes if cambios is None else cambios
    _carry_out(MakeSampleDatabase(dsn, cuentas or accounts, many, chosen), as_json)


@app.command()
def runs(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most, the newest first.")] = 20,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only of this dataset.")] = None,
    status: Annotated[RunState | None, typer.Option("--status", help="Only in this state.")] = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the newest runs: what came in, when, and what became of it.

    Examples:
    acequia runs
    acequia runs --status rejected --limit 5
    """
    from acequia_cli.commands import ListRuns  # noqa: PLC0415

    state = status.value if status else None
    _carry_out(ListRuns(_where(data, url, env, config), limit=limit, dataset=dataset, status=state), as_json)


@app.command()
def trace(
    what: Annotated[str, typer.Argument(metavar="URI|RUN|MODEL", help="An object's uri, a run's or a model's id.")],
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show where an artifact came from and what became of it: data, times, parameters, metrics.

    Examples:
    acequia trace 0b5e6c1e-3d7a-5c1f-9a53-2f1b7c0d4e11
    acequia trace network_events_20251220_121211_plan_000001.v1-3fa9c1
    acequia trace s3://cybersec-ml-silver/network_events/date=2025-12-20/network_events_....v1-3fa9c1.parquet
    """
    from acequia_cli.commands import Trace  # noqa: PLC0415

    _carry_out(Trace(_where(data, url, env, config), what), as_json)


@app.command()
def verify(
    settled: Annotated[
        bool,
        typer.Option(
            "--settled",
            help="Also: no queue holds a message, nothing is in flight, the audit database knows all that is done.",
        ),
    ] = False,
    grace: Grace = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Prove that nothing is lost: what became of each object, at each of its readers, in sums that add up.

    objects = done + quarantined + dead + held + not applicable + in flight + orphans

    An orphan is an object that nobody is at work on; each is listed.
    Exit code 1 where there is one, or where anything else is wrong.

    Examples:
    acequia verify
    acequia verify --settled --grace 0
    acequia verify --url http://127.0.0.1:8000 --json
    """
    from acequia_cli.completeness import Verify  # noqa: PLC0415

    _carry_out(Verify(_where(data, url, env, config), settled=settled, grace=grace), as_json)


@app.command()
def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be sent again.")] = False,
    grace: Grace = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Find what was lost between the store and a queue, and send it again, now; else that happens on a timer.

    Examples:
    acequia sweep --dry-run
    acequia sweep --grace 0
    """
    from acequia_cli.completeness import Sweep  # noqa: PLC0415

    _carry_out(Sweep(_where(data, url, env, config), dry_run=dry_run, grace=grace), as_json)


@app.command()
def replay(
    dataset: Annotated[str, typer.Option("--dataset", help="`acequia datasets` lists them.")],
    layer: Annotated[
        ReadLayer | None, typer.Option("--layer", case_sensitive=False, help="The layer that the objects lie in.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From here on: 2026-11-01, 2026-11-01T12:30Z, or 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Up to here.")] = None,
    only_missing: Annotated[
        bool, typer.Option("--only-missing", help="Only objects without an outcome at their reader.")
    ] = False,
    stale: Annotated[
        bool,
        typer.Option(
            "--stale", help="Only those whose outcome is an older version's or setting's: the new one comes beside it."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be sent.")] = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
    capa: Annotated[ReadLayer | None, typer.Option("--capa", case_sensitive=False, hidden=True)] = None,
    desde: Annotated[str | None, typer.Option("--desde", hidden=True)] = None,
    hasta: Annotated[str | None, typer.Option("--hasta", hidden=True)] = None,
) -> None:
    """Send objects of a layer to their readers once more. Live work goes first.

    What is done stays as it is and is not done again, but with --stale.

    Examples:
    acequia replay --layer raw --dataset network_events --since 2026-11-01 --only-missing --dry-run
    acequia replay --layer raw --dataset network_events --since 7d --stale
    acequia replay --layer silver --dataset network_events --since 2026-11-01 --until 2026-11-08
    """
    from acequia_cli.completeness import Replay  # noqa: PLC0415

    meant = capa or layer
    if meant is None:
        raise typer.BadParameter("say which layer: landing, raw, silver or models", param_hint="--layer")
    _carry_out(
        Replay(
            _where(data, url, env, config),
            layer=meant.value,
            dataset=dataset,
            since=desde or since,
            until=hasta or until,
            only_missing=only_missing,
            stale=stale,
            dry_run=dry_run,
        ),
        as_json,
    )


@app.command("import")
def import_(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE...", help="Folders, files, s3://bucket/prefix (MINIO_* name its server)."),
    ] = None,
    dataset: Annotated[str, typer.Option("--dataset", help="`acequia datasets` lists them.")] = "network_events",
    pattern: Annotated[
        str | None, typer.Option("--pattern", help="Names of the files that are meant. Default: '<dataset>_*.parquet'.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Also what lies below folders.")] = False,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            envvar="ACEQUIA_IMPORT_DATABASE",
            metavar="URL",
            help="Where the predecessors' list lies: postgresql://user:password@host/database.",
        ),
    ] = None,
    table: Annotated[str, typer.Option("--table", help="That list; with its schema if need be.")] = "ingestion_events",
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="NAME=COLUMN,...", help="Columns of the list that are called otherwise."),
    ] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="Of times that name no zone.")] = "UTC",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be taken over.")] = False,
    replay: Annotated[bool, typer.Option("--replay", help="Have it worked on at once, behind the live work.")] = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
    patron: Annotated[str | None, typer.Option("--patron", hidden=True)] = None,
    recursivo: Annotated[bool, typer.Option("--recursivo", hidden=True)] = False,
    base_datos: Annotated[str | None, typer.Option("--base-datos", hidden=True)] = None,
    tabla: Annotated[str | None, typer.Option("--tabla", hidden=True)] = None,
    columnas: Annotated[str | None, typer.Option("--columnas", hidden=True)] = None,
    zona_horaria: Annotated[str | None, typer.Option("--zona-horaria", hidden=True)] = None,
    simular: Annotated[bool, typer.Option("--simular", hidden=True)] = False,
    procesar: Annotated[bool, typer.Option("--procesar", hidden=True)] = False,
) -> None:
    """Take over what a predecessor ingested: its files and the list it kept of them. No run is started.

    Files become RAW objects, known to runs, trace and the view ingestion_events, and are held back until
    `acequia replay --layer raw --only-missing` lets them be worked on. Asked again, it takes what is new.
    What can't be read is told and left alone: exit code 1.

    Examples:
    acequia import s3://cybersec-ml --database postgresql://reader:secret@db/ml --dry-run
    acequia import s3://cybersec-ml/old/ --url http://127.0.0.1:8000
    acequia import backup/ --pattern 'network_events_*.parquet' --replay
    """
    from acequia_cli.takeover import Import  # noqa: PLC0415

    _carry_out(
        Import(
            _where(data, url, env, config),
            sources=tuple(sources or ()),
            dataset=dataset,
            pattern=patron or pattern,
            recursive=recursive or recursivo,
            database=base_datos or database,
            table=tabla or table,
            columns=columnas or columns,
            zone=zona_horaria or timezone,
            dry_run=dry_run or simular,
            replay=replay or procesar,
        ),
        as_json,
    )


@schedules.callback(invoke_without_command=True)
def schedules_list(
    context: typer.Context,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the schedules: when each comes due next, what became of its last run, which missed times were skipped.

    Those that ACEQUIA_SCHEDULES names are fired, by the reconciler or by `acequia up`.

    Examples:
    acequia schedules
    acequia schedules --url http://127.0.0.1:8000 --json
    """
    from acequia_cli.schedules import ListSchedules  # noqa: PLC0415

    if context.invoked_subcommand is None:
        _carry_out(ListSchedules(_where(data, url, env, config)), as_json)


@schedules.command("fire")
def schedules_fire(
    name: Annotated[str, typer.Argument(metavar="NAME", help="`acequia schedules` lists them.")],
    no_wait: NoWait = False,
    timeout: Timeout = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Start a run of a schedule now, beside those of its times. It need not be one that is fired by itself.

    Example:
    acequia schedules fire network_daily
    """
    from acequia_cli.schedules import FireSchedule  # noqa: PLC0415

    _carry_out(FireSchedule(_where(data, url, env, config), name, wait=not no_wait, timeout=timeout), as_json)


@dlq.command("list")
def dlq_list(
    stage: Stage = None,
    dataset: OfDataset = None,
    older_than: OlderThan = None,
    state: Annotated[LetterState, typer.Option("--state", help="Only in this state.")] = LetterState.OPEN,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most, the newest first.")] = 50,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List dead letters: what failed, at which stage, how long ago and why.

    Examples:
    acequia dlq list
    acequia dlq list --stage transformer --older-than 2h
    acequia dlq list --state all --json
    """
    from acequia_cli.dead_letters import Filter, ListDeadLetters  # noqa: PLC0415

    _carry_out(
        ListDeadLetters(_where(data, url, env, config), Filter(stage, dataset, older_than, state.value), limit), as_json
    )


@dlq.command("show")
def dlq_show(
    id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or as much of it as no other begins with.")],
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show all of a dead letter: its object, its message, the reason and the traceback, what was done about it.

    Example:
    acequia dlq show 3f2a91c0
    """
    from acequia_cli.dead_letters import ShowDeadLetter  # noqa: PLC0415

    _carry_out(ShowDeadLetter(_where(data, url, env, config), id), as_json)


@dlq.command("replay")
def dlq_replay(
    ids: LetterIds = None,
    all: AllLetters = False,
    stage: Stage = None,
    dataset: OfDataset = None,
    older_than: OlderThan = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list which would be replayed.")] = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Send dead letters back to work, once what killed them is mended. Live work goes first.

    Examples:
    acequia dlq replay 3f2a91c0
    acequia dlq replay --all --stage transformer --dry-run
    acequia dlq replay --all --stage transformer
    """
    from acequia_cli.dead_letters import Filter, ReplayDeadLetters  # noqa: PLC0415

    meant = Filter(stage, dataset, older_than)
    _carry_out(ReplayDeadLetters(_where(data, url, env, config), tuple(ids or ()), all, meant, dry_run), as_json)


@dlq.command("discard")
def dlq_discard(
    ids: LetterIds = None,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why, for whoever asks later.")] = None,
    all: AllLetters = False,
    stage: Stage = None,
    dataset: OfDataset = None,
    older_than: OlderThan = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: I mean it.")] = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
    motivo: Annotated[str | None, typer.Option("--motivo", hidden=True)] = None,
) -> None:
    """Mark dead letters as not to be worked on. They stay listed with --state discarded, and can still be replayed.

    Examples:
    acequia dlq discard 3f2a91c0 --reason "sent twice by the old exporter"
    acequia dlq discard --all --stage evaluator --older-than 7d --reason "models of the old schema" --yes
    """
    from acequia_cli.dead_letters import DiscardDeadLetters, Filter  # noqa: PLC0415

    why = motivo or reason
    if why is None:
        raise typer.BadParameter("say why: it is stored for whoever asks later", param_hint="--reason")
    meant = Filter(stage, dataset, older_than)
    _carry_out(DiscardDeadLetters(_where(data, url, env, config), tuple(ids or ()), all, meant, why, yes), as_json)


@audit.command("verify")
def audit_verify(
    data: Data = DEFAULT_DATA, url: Url = None, env: Env = None, config: Config = None, as_json: Json = False
) -> None:
    """Prove that no audit record was changed or removed: recompute their chain, compare it with its anchors.

    Exit code 1 where the chain is broken.

    Example:
    acequia audit verify
    """
    from acequia_cli.commands import VerifyAudit  # noqa: PLC0415

    _carry_out(VerifyAudit(_where(data, url, env, config)), as_json)


@audit.command("rebuild")
def audit_rebuild(
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Fill the audit database from the store, where each artifact carries its record.

    Acceptances, outcomes, dead letters, promotions and lineage come back; failed attempts need a database backup.

    Example:
    acequia audit rebuild
    """
    from acequia_cli.commands import RebuildAudit  # noqa: PLC0415

    _carry_out(RebuildAudit(_where(data, url, env, config)), as_json)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One query; - reads it from standard input.")],
    format: Annotated[
        QueryFormat | None,
        typer.Option("--format", case_sensitive=False, help="Default: what --output ends in, else a table."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the rows there, all or none.")
    ] = None,
    as_of: AsOf = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=100_000, help="Rows of a table, at most.")] = 100,
    memory: Memory = DEFAULT_MEMORY,
    env: Env = None,
    config: Config = None,
    env_file: EnvFile = None,
    data: AnyData = None,
    url: Url = None,
    formato: Annotated[QueryFormat | None, typer.Option("--formato", case_sensitive=False, hidden=True)] = None,
    salida: Annotated[Path | None, typer.Option("--salida", hidden=True)] = None,
    filas: HiddenRows = None,
) -> None:
    """Ask in SQL what lies in the store, also while ingestion goes on. Nothing is locked, and nothing is changed.

    bronze.<dataset> is RAW, silver.<dataset> the lakehouse's table; SHOW ALL TABLES lists them. It reads the folder in
    --data, or the servers whose settings (MINIO_*, ACEQUIA_LAKEHOUSE_*) are in the environment, --env or --env-file.

    Examples:
    acequia query "select protocol, count(*) from bronze.network_events group by all"
    acequia query "from silver.network_events" --output events.parquet
    acequia query "select * from silver.accounts" --as-of 2026-11-01T06:00Z --format csv
    acequia query - --env-file .env < report.sql
    """
    from acequia_cli.query import Format, Query  # noqa: PLC0415

    meant = formato or format
    form = Format(meant.value) if meant else None
    chosen = _chosen(data, url, env_file, env, config)
    _carry_out(Query(chosen, sql, form, salida or output, as_of, filas or rows, memory), as_json=False)


@warehouse.command("build")
def warehouse_build(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The DuckDB file, for instance warehouse.duckdb.")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="TABLE", help="bronze, silver, or one table: silver.accounts. May be repeated."),
    ] = None,
    as_of: AsOf = None,
    replace: Annotated[bool, typer.Option("--replace", help="Also a file that this command did not build.")] = False,
    memory: Memory = DEFAULT_MEMORY,
    env: Env = None,
    config: Config = None,
    env_file: EnvFile = None,
    data: AnyData = None,
    url: Url = None,
    as_json: Json = False,
    solo: Annotated[list[str] | None, typer.Option("--solo", hidden=True)] = None,
) -> None:
    """Build a DuckDB file with all of bronze and silver as tables, also while ingestion goes on.

    It is built beside the old one and takes its place once it is whole: who reads the old one goes on with that.

    Examples:
    acequia warehouse build warehouse.duckdb
    acequia warehouse build reports.duckdb --only silver --only bronze.sensor_data
    """
    from acequia_cli.warehouse import Build  # noqa: PLC0415

    chosen = _chosen(data, url, env_file, env, config)
    _carry_out(Build(chosen, file, tuple(solo or only or ()), as_of, replace, memory), as_json)


@lake.command("tables")
def lake_tables(
    dataset: OfDataset = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the lakehouse's tables: rows, files, snapshots, and when each changed.

    Examples:
    acequia lake tables
    acequia lake tables --dataset accounts --json
    """
    from acequia_cli.lake import ListTables  # noqa: PLC0415

    _carry_out(ListTables(_where(data, url, env, config), dataset), as_json)


@lake.command("compact")
def lake_compact(
    dataset: OfDataset = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write the tables' small files anew as few, now; else that happens on a timer. SILVER's own objects stay.

    Examples:
    acequia lake compact --dry-run
    acequia lake compact --dataset network_events
    """
    from acequia_cli.lake import Compact  # noqa: PLC0415

    _carry_out(Compact(_where(data, url, env, config), dataset, dry_run), as_json)


@lake.command("expire")
def lake_expire(
    dataset: OfDataset = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="SPAN|TIME", help="Default: the lakehouse's setting. 7d, 2026-11-01."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Forget the tables' old snapshots, and remove files of LAKE that none names any more. SILVER's objects stay.

    A table can be read --as-of a time as long as the snapshot of then is there: one goes when another took its place
    before --older-than. The current one always stays.

    Examples:
    acequia lake expire --older-than 30d --dry-run
    acequia lake expire --dataset accounts --older-than 2026-11-01
    """
    from acequia_cli.lake import Expire  # noqa: PLC0415

    _carry_out(Expire(_where(data, url, env, config), dataset, older_than, dry_run), as_json)


@app.command()
def doctor(
    env_file: Annotated[
        Path | None,
        typer.Option("--env-file", metavar="FILE", help="Settings, as in .env.example; the environment comes first."),
    ] = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Check each part with a canary object through the real path: what is wrong, and how to mend it.

    With the services' settings (MINIO_*, RABBITMQ_URL, PG_*) it checks those servers, else the embedded installation in
    --data; with --url also the services there. It changes nothing that stays. Exit code 1 where a check fails.

    Examples:
    acequia doctor
    acequia doctor --env-file .env --url http://127.0.0.1:8000
    """
    from acequia_cli.doctor.command import Doctor  # noqa: PLC0415

    _carry_out(Doctor(data, url or None, env_file), as_json)


@app.command()
def datasets(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Only these.")] = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the datasets: columns, key, where they come from (table, formats, files, schedules), who reads them.

    Examples:
    acequia datasets
    acequia datasets network_events
    """
    from acequia_cli.commands import ListDatasets  # noqa: PLC0415

    _carry_out(ListDatasets(_where(data, url, env, config), names or ()), as_json)


@app.command()
def formats(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Tell all that is known of these.")
    ] = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    env: Env = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List the source formats; of those that are named, tell what is read, what is null, and what is skipped.

    Examples:
    acequia formats
    acequia formats argus
    """
    from acequia_cli.commands import ListFormats  # noqa: PLC0415

    _carry_out(ListFormats(_where(data, url, env, config), names or ()), as_json)


@settings.command("show")
def config_show(
    env: Annotated[str, typer.Option("--env", metavar="NAME", help="The environment: local, dev, prod, ..")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show an environment of the settings file: each setting, where its value comes from, no secret.

    Exit code 2 where something that it refers to is not there.

    Example:
    acequia config show --env prod
    """
    from acequia_cli.show_profile import ShowProfile  # noqa: PLC0415

    _carry_out(ShowProfile(env, config), as_json)


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version.

    Example:
    acequia version --json
    """
    from acequia_cli.commands import ShowVersion  # noqa: PLC0415

    _carry_out(ShowVersion(), as_json)


if __name__ == "__main__":
    app()
