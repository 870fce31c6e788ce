"""docs/hostile-input.md, made of the table of cases: `make hostile-page`."""

from pathlib import Path

from hostile.cases import DOORS, TABLE, Case

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hostile-input.md"
BEGIN = """\
# Hostile input

What somebody may hand in, by accident or on purpose, and what becomes of it. Each line is a test
([tests/hostile](../tests/hostile)) that sends it through a running installation, embedded and on the real servers,
and then looks for three things: the reason stands where it should, every service is alive, and the next good object
is processed. After all of them no message is dead, no attempt has failed and no temporary file is left.

This page is made of the table in [cases.py](../tests/hostile/cases.py) by `make hostile-page`; a test fails where it
is out of date.

- **quarantine**: the whole object is rejected. A manifest in QUARANTINE (`.rejected.json`) names the rule and says
  why in a sentence; the audit has it as `REJECTED`. It is not tried again and never becomes a dead letter.
- **quarantined rows**: the rest is taken; the rows lie in QUARANTINE (`.rows.parquet`) with line, rule and reason.
- **HTTP 4xx**: an RFC 9457 problem, `application/problem+json`.

What is drawn at random is tested beside it: each parser with arbitrary bytes
([properties of parsers](../tests/unit/ingestor/test_properties_of_parsers.py)), each HTTP operation against its
OpenAPI description ([test_openapi.py](../tests/hostile/test_openapi.py)). Large input: [bench.md](bench.md#memory).
"""


def page() -> str:
    """The whole page."""
    parts = [BEGIN]
    for title, cases in TABLE.items():
        rows = [f"| {case.name} | {case.what} | {how(case)} | {case.expected} |" for case in cases]
        parts.append(
            "\n".join(
                [
                    f"## {title}",
                    "",
                    "| case | what it is | how it comes | what becomes of it |",
                    "|---|---|---|---|",
                    *rows,
                    "",
                ]
            )
        )
    return "\n".join(parts)


def how(case: Case) -> str:
    return DOORS[case.door] + (f", `format={case.format}`" if case.format and case.door == "file" else "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
