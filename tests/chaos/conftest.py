"""Prints what the storm did, in pytest's own summary."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, lines in getattr(report, "user_properties", ()):
                if name == "chaos" and report.when == "call":
                    terminalreporter.section("chaos")
                    terminalreporter.write_line("\n".join(lines))
