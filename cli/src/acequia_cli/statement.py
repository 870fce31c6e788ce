"""What a person's SQL asks for: one query that reads, and of which tables.

DuckDB's own parser says it, as a document; nothing is bound or run for that. A statement's kind is not enough: since
DuckDB 2 a SELECT may hold COPY, INSERT and the like in its WITH clause.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from acequia_cli.complaints import WrongUse

READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""Nodes of a query that only read. Those that write end in `_QUERY_NODE`."""
HARMLESS_FUNCTIONS = frozenset(
    {
        *("range", "generate_series", "unnest", "repeat", "repeat_row", "query_table"),
        *("histogram", "histogram_values", "summary", "json_each", "json_tree", "test_all_types"),
        *("duckdb_columns", "duckdb_functions", "duckdb_keywords", "duckdb_schemas", "duckdb_settings"),
        *("duckdb_tables", "duckdb_types", "duckdb_views"),
        *("icu_calendar_names", "pg_timezone_names", "pragma_table_info", "pragma_version"),
    }
)
"""Table functions that touch nothing outside the query. What reads files or runs SQL from a string is none of them."""
NAMELESS_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree"})
"""Of those the ones that can't be about a table that is not named in the statement."""
SCHEMAS = ("bronze", "silver")
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(ANALYZE\b\s*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Statement:
    text: str
    """Without what may follow it: semicolons and comments."""
    tables: frozenset[tuple[str, str]]
    """Schema and name, in lower case, of those in `bronze` and `silver` that it names."""
    all_tables: bool
    """Whether it may be about every table there is: `SHOW ALL TABLES`, `information_schema`."""
    bare: frozenset[str] = frozenset()
    """Table names without a schema, in lower case, those of its WITH clauses among them."""
    explains: bool = False
    """Whether it asks for the plan of a query, not for its rows."""


def read_statement(sql: str) -> Statement:
    """WrongUse where it is no query, where it could write, or where it is more than one."""
    text = _trimmed(sql)
    if not text:
        raise WrongUse('there is no SQL to run: try acequia query "select * from bronze.network_events limit 10"')
    explained = _EXPLAIN.match(text)
    query = text[explained.end() :] if explained else text
    document = _parsed(query, before=text[: explained.end()] if explained else "")
    if len(document["statements"]) != 1:
        raise WrongUse(f"this is {len(document['statements'])} statements: give one")
    tables: set[tuple[str, str]] = set()
    bare: set[str] = set()
    everything = False
    for node in _nodes(document["statements"]):
        kind = str(node.get("type", ""))
        if kind.endswith("_NODE") and kind not in READING_NODES:
            word = kind.removesuffix("_NODE").removesuffix("_QUERY").replace("_", " ")
            raise WrongUse(f"a query only reads: {word} can't be part of it (--output FILE writes its result)")
        if kind == "TABLE_FUNCTION":
            name = str(node["function"]["function_name"]).lower()
            if name not in HARMLESS_FUNCTIONS:
                raise WrongUse(f"{name} can't be used here: a query reads the tables in bronze and silver, no files")
            everything = everything or name not in NAMELESS_FUNCTIONS
        elif kind == "SHOW_REF" and node.get("query") is None:
            everything = True
        elif kind == "BASE_TABLE":
            schema, name = str(node["schema_name"]).lower(), str(node["table_name"]).lower()
            if schema in SCHEMAS:
                tables.add((schema, name))
            elif schema:
                everything = True
            else:
                bare.add(name)
    return Statement(text, frozenset(tables), everything, frozenset(bare), explained is not None)


def _trimmed(sql: str) -> str:
    """Up to where the last token ends that is neither a comment nor a semicolon."""
    tokens = [(place, kind) for place, kind in duckdb.tokenize(sql)]
    end = len(sql)
    for place, kind in reversed(tokens):
        if kind != duckdb.token_type.comment and not (kind == duckdb.token_type.operator and sql[place] == ";"):
            return sql[:end].strip()
        end = place
    return ""


def _parsed(query: str, before: str) -> dict[str, Any]:
    """DuckDB's parse of it. `before`: what stands in front of it, for the place of a mistake."""
    with duckdb.connect() as parser:
        [answer] = parser.execute("SELECT json_serialize_sql(?)", [query]).fetchone() or ("",)
    try:
        document: dict[str, Any] = json.loads(answer)
    except RecursionError as error:
        raise WrongUse("this query is nested too deeply") from error
    if not document["error"]:
        return document
    if document["error_type"] == "parser":
        raise WrongUse(f"{document['error_message']}{_place(before + query, before, document.get('position'))}")
    raise WrongUse(
        "only a query can be run here: SELECT, FROM, WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN"
        " (a PIVOT needs its values: PIVOT ... ON ... IN (...))"
    )


def _place(text: str, before: str, position: str | None) -> str:
    if position is None or not position.isdecimal():
        return ""
    # DuckDB counts bytes
    at = len(before) + len(text[len(before) :].encode()[: int(position)].decode(errors="ignore"))
    line = text.count("\n", 0, at) + 1
    column = at - (text.rfind("\n", 0, at) + 1) + 1
    return f" (line {line}, column {column})"


def _nodes(document: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document, without recursion: a query may be deep."""
    waiting = [document]
    while waiting:
        match waiting.pop():
            case dict() as node:
                yield node
                waiting += node.values()
            case list() as several:
                waiting += several
