"""Numbers of pages and terminals: one format each, and no sign of what rounds to nothing."""

from __future__ import annotations

from facekd.pages.numbers import decimal, interval, interval_of_points, p_value, percent, points, threshold
from facekd.pages.tables import Table


def test_each_kind_of_number_has_one_format() -> None:
    assert [percent(0.98765), percent(None), percent(1.0)] == ["98.77", "-", "100.00"]
    assert interval((0.98, 0.99)) == "98.00 to 99.00" and interval(None) == "-"
    assert [points(0.0125), points(-0.0125)] == ["+1.25", "\N{MINUS SIGN}1.25"]
    assert interval_of_points((-0.01, 0.02)) == "\N{MINUS SIGN}1.00 to +2.00"
    assert [p_value(0.0004), p_value(0.0421)] == ["< 0.001", "0.042"]
    assert [threshold(0.123456), threshold(None)] == ["0.1235", "-"]
    assert [decimal(-0.001, 2), decimal(-0.25, 2)] == ["0.00", "\N{MINUS SIGN}0.25"]


def test_what_they_write_is_aligned_as_numbers() -> None:
    cells = [percent(0.5), interval((0.1, 0.2)), points(-0.1), interval_of_points((-0.1, 0.1)), p_value(0.0), "-"]
    assert Table("", ["", *map(str, range(len(cells)))], [["row", *cells], ["other", *cells[::-1]]]).is_number[1:] == [
        True
    ] * len(cells)


def test_a_table_for_the_terminal_has_no_marks_of_markdown() -> None:
    text = Table("Title", ["name", "EER %"], [["a|b", "1.25"], ["c", "12.50"]]).to_text()
    assert text.splitlines() == ["Title", "name  EER %", "a|b    1.25", "c     12.50"]
