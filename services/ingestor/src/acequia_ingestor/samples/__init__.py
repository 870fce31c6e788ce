"""A sample database of the subscription pack: its tables, rows that a seed pins, and changes to them. SQL only."""

from datetime import datetime
from importlib.resources import files

ACCOUNTS = 200


def schema_script() -> str:
    """Makes the pack's tables in the schema `public`. Fails where one is there."""
    return _text("schema")


def rows_script(*, accounts: int = ACCOUNTS, seed: int = 7, at: datetime) -> str:
    """Fills the tables: so many accounts, and about eleven times as many rows in all. The newest change is of `at`."""
    return _settings(accounts=accounts, seed=seed, at=at.isoformat()) + _text("rows")


def changes_script(*, changes: int, seed: int, at: datetime) -> str:
    """Changes about so many rows: inserts, updates, soft and hard deletes. The newest is stamped with `at`."""
    return _settings(changes=changes, seed=seed, at=at.isoformat()) + _text("changes")


def _text(name: str) -> str:
    return (files(__name__) / f"{name}.sql").read_text()


def _settings(**values: int | str) -> str:
    return "".join(f"SELECT set_config('acequia.{name}', '{value}', false);\n" for name, value in values.items())
