"""The machine that the doctor runs on: where temporary files go, and which way its clock is off."""

import os
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

from acequia_cli.doctor.findings import Chart

GIB = 1 << 30
FREE_ENOUGH = GIB
"""Bytes of free space below which the doctor warns."""
FREE_AT_LEAST = 64 << 20
SKEW_SEEN = timedelta(seconds=5)
SKEW_REFUSED = timedelta(minutes=15)
"""Requests are signed with the time: a store refuses those that are so far off."""


def examine_folder(chart: Chart, check: str, folder: Path, setting: str) -> None:
    """Writable, and with room. `setting`: what names another folder."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix="acequia-doctor-") as file:
            file.write(b"canary")
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        chart.fail(
            check,
            f"nothing can be written to {folder}: {error.strerror}",
            f"let the user that runs this write there, or set {setting} to a folder that it may write to",
        )
        return
    said = f"{folder} is writable, {told_bytes(free)} free"
    mend = f"free space there, or set {setting} to a folder on a larger disk"
    if free < FREE_AT_LEAST:
        chart.fail(check, f"{folder} is full: {told_bytes(free)} free", mend)
    elif free < FREE_ENOUGH:
        chart.warn(check, f"{said}: too little for large objects", mend)
    else:
        chart.ok(check, said)


def examine_clock(chart: Chart, check: str, ahead: timedelta, whose: str) -> None:
    """`ahead`: of ours, by the clock of `whose`."""
    off = abs(ahead)
    said = f"the clock of {whose} is {off.total_seconds():.0f} s {'ahead of' if ahead > timedelta() else 'behind'} ours"
    mend = "let both machines set their clocks by NTP (`timedatectl set-ntp true`)"
    if off >= SKEW_REFUSED:
        chart.fail(check, said, mend)
    elif off > SKEW_SEEN:
        chart.warn(check, f"{said}: times in keys and records are off by as much", mend)
    else:
        chart.ok(check, f"the clock of {whose} agrees with ours")


def told_bytes(number: int) -> str:
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / (1 << 20):.0f} MiB"
