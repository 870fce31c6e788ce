"""Tables that a REST catalog knows: it says where they lie, and decides who of several commits."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from acequia.errors import ConfigurationError, TransientFailure
from acequia.layers import Buckets
from acequia_lakehouse.catalog import Place
from acequia_lakehouse.maintain import compact, describe, expire
from acequia_lakehouse.settings import LakehouseSettings
from acequia_lakehouse.tables import Tables

from .conftest import OLD, Lake, people, visits
from .rest_catalog import TOKEN, RestCatalog, serve
from .test_maintenance import LATER

EVENTS, PEOPLE = ("silver", "visits"), ("silver", "people")


@pytest.fixture
def behind(tmp_path: Path) -> RestCatalog:
    return RestCatalog(tmp_path / "rest")


@pytest.fixture
def url(behind: RestCatalog) -> Iterator[str]:
    with serve(behind.answer) as address:
        yield address


def opened(url: str, folder: Path, **properties: str) -> Lake:
    settings = LakehouseSettings(catalog="rest", catalog_uri=url, catalog_properties=properties)  # type: ignore[arg-type]
    return Lake(Tables(settings, replace(Place.in_folder(folder, Buckets("test")), catalog_uri="")))


def test_by_rest_too_plans_come_in_once_and_maintenance_loses_nothing(
    behind: RestCatalog, url: str, tmp_path: Path
) -> None:
    lake = opened(url, tmp_path, token=TOKEN)
    first = lake.put("visits", 1, visits(1))
    lake.plan(1, first)
    lake.plan(2, lake.put("visits", 2, visits(2)))
    lake.plan(1, lake.put("people", 1, people(1, {1: "ana", 2: "ben"}), OLD, "1.full.1of1"))
    lake.plan(2, lake.put("people", 2, people(2, {1: "anna", 2: None}), OLD, "2.changes.1of1"))
    assert compact(lake.tables, EVENTS, ()).files_after == 1
    for name in lake.tables.names():
        expire(lake.tables, name, LATER)

    assert opened(url, tmp_path, token=TOKEN).plan(1, first)["already"] == 1

    assert sorted(lake.rows("visits", "id")["id"]) == [1, 2]
    assert lake.rows("people", "id", "name").rows() == [(1, "anna")]
    assert describe(lake.tables, PEOPLE)["location"].startswith(str(tmp_path / "rest"))
    assert behind.warehouses == []  # none was named: the server has a default


def test_the_warehouse_that_the_properties_name_is_asked_for(behind: RestCatalog, url: str, tmp_path: Path) -> None:
    opened(url, tmp_path, token=TOKEN, warehouse="ours").tables.check()
    assert behind.warehouses == ["ours"]


@pytest.mark.parametrize("code", [409, 500, 504])
def test_a_commit_that_is_refused_or_that_nobody_knows_of_is_decided_anew(
    behind: RestCatalog, url: str, tmp_path: Path, code: int
) -> None:
    lake = opened(url, tmp_path, token=TOKEN)
    lake.plan(1, lake.put("visits", 1, visits(1)))
    behind.instead = [code, code]

    lake.plan(2, lake.put("visits", 2, visits(2)))

    assert sorted(lake.rows("visits", "id")["id"]) == [1, 2]


def test_a_rest_catalogs_trouble_is_named_by_what_follows(behind: RestCatalog, url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ACEQUIA_LAKEHOUSE_CATALOG_URI"):
        opened(url, tmp_path, token="another").tables.check()
    with pytest.raises(ConfigurationError, match="ACEQUIA_LAKEHOUSE_CATALOG_URI"):
        opened(url.removeprefix("http://"), tmp_path, token=TOKEN).tables.check()
    with pytest.raises(ConfigurationError, match="no Iceberg REST catalog"):
        opened(f"{url}/elsewhere", tmp_path, token=TOKEN).tables.check()
    with serve(lambda *_: (200, None)) as page, pytest.raises(ConfigurationError, match="no Iceberg REST"):
        opened(page, tmp_path, token=TOKEN).tables.check()
    with pytest.raises(TransientFailure) as away:
        opened("http://127.0.0.1:1", tmp_path, token=TOKEN).tables.check()
    assert away.value.away
    lake = opened(url, tmp_path, token=TOKEN)
    lake.plan(1, lake.put("visits", 1, visits(1)))
    behind.instead = [400]
    with pytest.raises(TransientFailure, match="as it was asked to") as refused:
        lake.plan(2, lake.put("visits", 2, visits(2)))
    assert not refused.value.away
