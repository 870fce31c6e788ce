from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from acequia.events import AuditRecord, IngestionCommand, Kind, ObjectRecord, SourceRequest, Status, event_id
from acequia_auditor.migrate import migrations
from acequia_auditor.read import model_id
from acequia_auditor.rebuild import acceptance_of
from acequia_auditor.write import clean, layer_of, source_of


def record(**more: object) -> AuditRecord:
    now = datetime(2025, 12, 20, tzinfo=UTC)
    fields = {"run_id": UUID(int=1), "inputs": ()} | more
    return AuditRecord(
        event_id=uuid4(),
        kind=Kind.ACCEPTED,
        status=Status.ACCEPTED,
        stage="ingestor",
        variant="",
        dataset="network_events",
        started=now,
        finished=now,
        host="test",
        **fields,
    )


@pytest.mark.parametrize(
    ("uri", "layer"),
    [
        ("s3://cybersec-ml-raw/a/b.parquet", "raw"),
        ("s3://another-prefix-with-dashes-models/m", "models"),
        ("s3://raw/a", "raw"),
        ("s3://somebody-elses/a", None),
        ("", None),
    ],
)
def test_the_layer_of_an_object_is_the_end_of_its_buckets_name(uri, layer):
    assert layer_of(uri) == layer


@pytest.mark.parametrize(
    ("more", "source"),
    [
        ({"parameters": {"file": "conn.log", "source": {"kind": "file"}}}, "conn.log"),
        ({"parameters": {"source": {"kind": "synthetic", "rows": 10}}}, "synthetic"),
        ({"inputs": (ObjectRecord(uri="s3://x-landing/network_events/a b.log"),)}, "a b.log"),
        (
            {"stem": "network_events_20251220_121209_0123456789abcdef"},
            "network_events_20251220_121209_0123456789abcdef",
        ),
        ({"parameters": {"file": None, "source": {"kind": 3}}}, str(UUID(int=1))),
    ],
)
def test_a_run_is_called_by_its_file_or_by_its_kind_of_source(more, source):
    assert source_of(record(**more)) == source


def test_a_nul_goes_from_names_and_values_however_deep():
    assert clean({"a\0": ["b\0", {"c": "d\0e"}, 1, None]}) == {"a\ufffd": ["b\ufffd", {"c": "d\ufffde"}, 1, None]}


def test_a_models_id_is_the_folder_of_its_card():
    uri = "s3://x-models/network_events/date=2025-12-20/network_events_20251220_121209_plan_000001.v1-3fa9c1/model.json"
    assert model_id(uri) == "network_events_20251220_121209_plan_000001.v1-3fa9c1"


def test_an_open_command_gives_the_record_that_the_ingestor_publishes_at_its_acceptance():
    command = IngestionCommand(
        run_id=UUID(int=5),
        dataset="network_events",
        source=SourceRequest.model_validate({"kind": "synthetic", "rows": 10}),
        accepted_at=datetime(2025, 12, 20, tzinfo=UTC),
        fingerprint="f",
    )
    accepted = acceptance_of(command)
    assert accepted.event_id == event_id(Kind.ACCEPTED, "ingestor", "", str(UUID(int=5)))
    assert (accepted.run_id, accepted.started, accepted.parameters["source"]["rows"]) == (
        command.run_id,
        command.accepted_at,
        10,
    )


def test_migrations_are_numbered_without_a_gap():
    assert [int(name.split("_")[0]) for name, _ in migrations()] == list(range(1, len(migrations()) + 1))
