"""The table of deliberate breaks is of this tree."""

from breaks import BREAKS, ROOT, occurrences


def test_every_break_has_a_name_of_its_own_a_line_to_break_and_tests_to_notice_it():
    assert len({each.name for each in BREAKS}) == len(BREAKS)
    for each in BREAKS:
        assert occurrences(ROOT, each) == 1, each.name
        assert each.new != each.old
        assert each.tests
        assert all((ROOT / path).exists() for path in each.tests), each.name
