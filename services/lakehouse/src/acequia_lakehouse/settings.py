"""Settings of the lakehouse. Built in `__main__`, never at import."""

from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class LakehouseSettings(BaseSettings):
    """Where the tables are known, and how they are kept in order. None of it changes what a table holds."""

    model_config = SettingsConfigDict(env_prefix="ACEQUIA_LAKEHOUSE_", extra="ignore", frozen=True)

    catalog: Annotated[Literal["sql", "glue", "rest"], Field(description="What kind of catalog knows the tables")] = (
        "sql"
    )
    catalog_uri: Annotated[
        SecretStr,
        Field(description="sql: postgresql+psycopg://user:password@host/database; rest: the catalog's URL"),
    ] = SecretStr("")
    catalog_name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9_-]{0,100}$", description="Its name; in SQL a column. Default: the bucket prefix"),
    ] = ""
    catalog_properties: Annotated[
        dict[str, str],
        Field(description='Further properties of pyiceberg\'s catalog, as JSON: {"glue.region": "us-east-1"}'),
    ] = {}
    warehouse: Annotated[str, Field(description="Where the tables' own files lie; default: in the LAKE bucket")] = ""
    namespace: Annotated[
        str, Field(pattern=r"^[a-z][a-z0-9_]{0,60}$", description="Of the tables: silver.<dataset>")
    ] = "silver"
    gather_quiet: Annotated[float, Field(ge=0, description="Seconds without news after which a plan is made")] = 0.5
    gather_most: Annotated[float, Field(ge=0, description="Seconds after which a plan is made in any case")] = 5.0
    plan_rows: Annotated[int, Field(ge=1, description="Rows of one commit, at most, but one object in any case")] = (
        2_000_000
    )
    file_rows: Annotated[int, Field(ge=1, description="Rows of a file that a merge or a compaction writes")] = 1_000_000
    maintain_every: Annotated[
        float, Field(ge=0, description="Seconds between two rounds of maintenance; 0: only when it is asked for")
    ] = 3600.0
    keep_snapshots: Annotated[float, Field(ge=0, description="Seconds for which a snapshot can be read")] = 604_800.0
    most_snapshots: Annotated[int, Field(ge=1, description="Snapshots of a table, at most")] = 500
    compact_files: Annotated[
        int, Field(ge=2, description="A table with so many small files, or more, is compacted")
    ] = 32


class OwnerSettings(BaseSettings):
    """The role that makes the catalog's database and role. Only `prepare` needs it."""

    model_config = SettingsConfigDict(env_prefix="ACEQUIA_LAKEHOUSE_OWNER_", extra="ignore")

    uri: Annotated[
        SecretStr, Field(description="postgresql://user:password@host/database of a role that may make both")
    ]
