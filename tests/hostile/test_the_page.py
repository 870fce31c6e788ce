"""docs/hostile-input.md says what the tests test."""

from hostile.cases import CASES
from hostile.page import PAGE, page


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make hostile-page`"


def test_no_two_cases_have_one_name() -> None:
    names = [case.name for case in CASES]
    assert sorted(set(names)) == sorted(names)
