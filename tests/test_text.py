"""Numbers and names for people."""

import pytest

from zsad.text import count, duration, printable, size


def test_count():
    assert [count(number, "image") for number in (0, 1, 2, 2000)] == ["0 images", "1 image", "2 images", "2,000 images"]
    assert count(3, "category") == "3 categories"
    assert [count(number, "row has", "rows have") for number in (1, 2)] == ["1 row has", "2 rows have"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (42, "42s"), (598, "9m58s"), (11_100, "3h05m"), (187_200, "2d04h")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 B"), (812, "812 B"), (1500, "1.5 kB"), (3.2e12, "3.2 TB")])
def test_size(number, text):
    assert size(number) == text


def test_names_cannot_reorder_a_line():
    assert printable("a\u202eb\nc") == "a?b?c"
    assert printable("a\u202eb\nc", "\ufffd") == "a\ufffdb\ufffdc"
    assert printable(7) == "7"
