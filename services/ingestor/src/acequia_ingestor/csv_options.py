"""How a CSV file that people made is to be read: the options that a person, or a dataset's file, may give.

As one text: `separator=;,decimal=,,dates=dmy,encoding=latin-1`. What is not given is told from the file's content.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from zoneinfo import ZoneInfo

from acequia.errors import RejectedInput

ENCODINGS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("utf-8", "utf8", "utf-8-sig"), "utf-8"),
        # the bytes in which Latin-1 differs are control characters there: nobody writes them
        **dict.fromkeys(("windows-1252", "cp1252", "latin-1", "latin1", "iso-8859-1", "ansi"), "windows-1252"),
        **dict.fromkeys(("utf-16", "utf16"), "utf-16"),
    }
)
SEPARATORS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys((",", "comma"), ","),
        **dict.fromkeys((";", "semicolon"), ";"),
        **dict.fromkeys(("tab", "\t", "\\t"), "tab"),
        **dict.fromkeys(("|", "pipe"), "|"),
    }
)
DECIMALS: Mapping[str, str] = MappingProxyType(
    {**dict.fromkeys((".", "point"), "."), **dict.fromkeys((",", "comma"), ",")}
)
DATES: Mapping[str, str] = MappingProxyType({order: order for order in ("dmy", "mdy", "ymd")})
_ALLOWED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"encoding": ENCODINGS, "separator": SEPARATORS, "decimal": DECIMALS, "dates": DATES}
)
NAMES = (*_ALLOWED, "timezone")
RULE = "csv_options"


def read_csv_options(text: str) -> dict[str, str]:
    """The options that `text` gives, each in its one spelling. RejectedInput (`csv_options`) where it is none such."""
    found: dict[str, str] = {}
    # a comma may be a value: what separates two options is one with a name behind it
    for option in re.split(r",(?=\s*[A-Za-z]+\s*=)", text):
        name, equals, value = option.partition("=")
        name = name.strip().lower()
        if not equals or name not in NAMES:
            raise RejectedInput(
                RULE, f"{option.strip()!r} is no option of CSV files: there is {', '.join(NAMES)}", allowed=list(NAMES)
            )
        if name in found:
            raise RejectedInput(RULE, f"{name} is given twice")
        found[name] = _value(name, value)
    return found


def checked(options: Mapping[str, str]) -> dict[str, str]:
    """The same options, each in its one spelling. RejectedInput (`csv_options`)."""
    if unknown := [name for name in options if name not in NAMES]:
        raise RejectedInput(RULE, f"there is no option {', '.join(unknown)} of CSV files", allowed=list(NAMES))
    return {name: _value(name, value) for name, value in options.items()}


def as_text(options: Mapping[str, str]) -> str:
    """What `read_csv_options` reads, the same for the same options."""
    return ",".join(f"{name}={options[name]}" for name in sorted(options))


def _value(name: str, value: str) -> str:
    value = value if value in ("\t", " ") else value.strip()
    if name == "timezone":
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise RejectedInput(RULE, f"{value!r} is no time zone: name one as America/Mexico_City") from error
        return value
    allowed = _ALLOWED[name]
    if (known := allowed.get(value.lower())) is None:
        one_each = list(dict.fromkeys(allowed.values()))
        raise RejectedInput(RULE, f"{name} can't be {value!r}: it is one of {' '.join(one_each)}", allowed=one_each)
    return known
