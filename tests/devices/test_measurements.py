"""CSV files of measurements: what is read, and what is said of a wrong one."""

import numpy as np
import pytest

from analogsim.devices.measurements import MOST_PROBLEMS, read_measurements
from analogsim.errors import DataError

HEAD = "target_uS,read_uS,time_s"
GOOD = [f"{1 + k % 2},{1.1 + k % 2},{t}" for k in range(10) for t in (1, 2)]  # ten programmings, two reads each


def said(tmp_path, lines, name="m.csv"):
    (tmp_path / name).write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as error:
        read_measurements(tmp_path / name)
    return str(error.value).replace(f"{tmp_path / name}:", "")


def read(tmp_path, lines):
    (tmp_path / "m.csv").write_text("\n".join(lines), encoding="utf-8")
    return read_measurements(tmp_path / "m.csv")


WRONG = {
    "x,1,1": '4: target_uS: "x" is not allowed; allowed: a number of µS, 0 or more',
    "-1,1,1": '4: target_uS: "-1" is not allowed; allowed: a number of µS, 0 or more',
    "1,nan,1": '4: read_uS: "nan" is not allowed; allowed: a number of µS',
    "1,1e999,1": '4: read_uS: "1e999" is not allowed; allowed: a number of µS',
    "1,,1": '4: read_uS: "" is not allowed; allowed: a number of µS',
    "1,1,0": '4: time_s: "0" is not allowed; allowed: seconds since the write, more than 0',
    "1,1,inf": '4: time_s: "inf" is not allowed; allowed: seconds since the write, more than 0',
    "1,1": "4: 2 fields; allowed: 3, as the first line has",
    "1,1,1,1": "4: 4 fields; allowed: 3, as the first line has",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_line_is_named(tmp_path, line):
    assert said(tmp_path, [HEAD, *GOOD[:2], line, *GOOD[2:]]) == WRONG[line]


def test_all_wrong_lines_are_named_at_once_but_not_without_end(tmp_path):
    wrong = said(tmp_path, [HEAD, "x,1,1", *GOOD, "1,y,z"])
    assert [line.split(":")[:2] for line in wrong.split("\n")] == [
        ["2", " target_uS"],
        ["23", " read_uS"],
        ["23", " time_s"],
    ]
    many = said(tmp_path, [HEAD, *["x,1,1"] * (MOST_PROBLEMS + 5)]).split("\n")
    assert len(many) == MOST_PROBLEMS + 1
    assert many[-1].endswith("and 5 more")


@pytest.mark.parametrize("head", ["", "target,read_uS,time_s", f"{HEAD},read_uS", f"{HEAD},programming,programming"])
def test_wrong_columns_are_named(tmp_path, head):
    assert said(tmp_path, [head, *GOOD]).startswith("1: columns: [")
    assert "programming, which may be left out" in said(tmp_path, [head, *GOOD])


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(DataError, match=r"no\.csv: cannot be read: No such file"):
        read_measurements(tmp_path / "no.csv")
    assert "is not a CSV file in UTF-8" in said(tmp_path, ["\udcff\udcfe"])
    assert said(tmp_path, ["a\0b"]).startswith("1: columns: ")


def test_too_little_is_refused(tmp_path):
    few = " 9 programmings to 2 target(s); allowed: 10 or more, to 2 targets or more"
    assert said(tmp_path, [HEAD, *GOOD[:18]]) == few
    one = said(tmp_path, [HEAD, *(f"1,1,{t}" for _ in range(12) for t in (1, 2))])
    assert one == few.replace("9 programmings to 2", "12 programmings to 1")


def test_rows_follow_one_write_while_the_target_stays_and_time_rises(tmp_path):
    found = read(tmp_path, ["\ufeff" + HEAD, *GOOD, "", "1,1,1", "1,1,3", "1,1,0.5"])
    assert found.target_uS.tolist() == [1, 2] * 5 + [1, 1]
    assert np.bincount(found.programming).tolist() == [2] * 11 + [1]


def test_two_reads_at_one_time_need_a_number(tmp_path):
    message = said(tmp_path, [HEAD, *GOOD, "2,2,5", "2,2,5"])
    assert message.startswith("23: time_s: 5 again, as in line 22; allowed: a later time, or a column `programming`")


def test_numbered_rows_may_come_in_any_order(tmp_path):
    rows = [f"{k % 3},{k + t},{t},{k}" for t in (7, 1, 1) for k in range(12)]
    found = read(tmp_path, [f"{HEAD},programming", *rows])
    assert found.target_uS.tolist() == [0, 1, 2] * 4
    assert found.programming.tolist() == [k for k in range(12) for _ in range(3)]
    assert found.time_s.tolist() == [1, 1, 7] * 12
    assert found.read_uS.tolist() == [k + t for k in range(12) for t in (1, 1, 7)]


def test_one_programming_has_one_target(tmp_path):
    rows = [f"{k % 3},1,1,{k}" for k in range(12)]
    message = said(tmp_path, [f"{HEAD},programming", *rows, "2,1,9,0"])
    assert message == '14: target_uS: 2 is not allowed; allowed: 0, that of programming "0" in line 2'


def test_other_columns_are_ignored(tmp_path):
    found = read(tmp_path, [f"wafer,{HEAD}", *(f"w3,{line}" for line in GOOD)])
    assert len(found.target_uS) == 10
