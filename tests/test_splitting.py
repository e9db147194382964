"""Files are shared between training, validation and test; a file that is too large a part is cut first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.models.splitting import PARTS, Stretch, split


def files(*lengths: int) -> list[Stretch]:
    """Files of these lengths, end to end."""
    edges = [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    return [Stretch(edges[n], edges[n], edges[n + 1]) for n in range(len(lengths))]


@pytest.mark.parametrize(
    ("count", "validation", "test"),
    [(4, [3], [2]), (7, [6], [5]), (8, [7], [3]), (9, [7], [3]), (15, [7], [3, 11]), (16, [7, 15], [3, 11])],
)
def test_of_eight_files_one_validates_and_one_tests(
    count: int, validation: list[int], test: list[int]
) -> None:
    parts = split(files(*[100] * count))
    assert [stretch.begin // 100 for stretch in parts["validation"]] == validation
    assert [stretch.begin // 100 for stretch in parts["test"]] == test
    assert len(parts["training"]) == count - len(validation) - len(test)
    assert all(stretch.begin == stretch.file_begin for part in parts.values() for stretch in part)


@given(st.lists(st.integers(50, 100_000), min_size=1, max_size=40))
def test_every_sample_is_in_one_part_and_no_part_is_empty(lengths: list[int]) -> None:
    parts = split(files(*lengths))
    assert tuple(parts) == PARTS
    assert all(sum(one.end - one.begin for one in part) for part in parts.values())
    stretches = sorted((one.begin, one.end) for part in parts.values() for one in part)
    assert [begin for begin, _ in stretches] == [0, *(end for _, end in stretches[:-1])]
    assert stretches[-1][1] == sum(lengths)


@given(st.lists(st.integers(1000, 100_000), min_size=1, max_size=40))
def test_no_stretch_is_more_than_a_quarter_of_all(lengths: list[int]) -> None:
    parts = split(files(*lengths))
    longest = max(one.end - one.begin for part in parts.values() for one in part)
    assert longest <= sum(lengths) / 4 + 1


@pytest.mark.parametrize("place", [0, 3, 5])
def test_one_file_a_thousand_times_longer_is_in_all_parts(place: int) -> None:
    lengths = [1000] * 6
    lengths[place] = 1_000_000
    parts = split(files(*lengths))
    for part in parts.values():
        assert sum(one.end - one.begin for one in part) >= 0.1 * sum(lengths)
    begin = sum(lengths[:place])
    assert {one.file_begin for one in parts["validation"]} == {begin}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.floats(20.0, 999.0))
def test_files_of_whole_cycles_are_cut_where_one_begins(cycles: list[int], cycle: float) -> None:
    lengths = [round(count * cycle) for count in cycles]
    parts = split(files(*lengths), cycle)
    stretches = sorted((one for part in parts.values() for one in part), key=lambda one: (one.begin, one.end))
    assert sum(one.end - one.begin for one in stretches) == sum(lengths)
    for one in stretches:
        phase = (one.begin - one.file_begin) / cycle
        assert abs(phase - round(phase)) * cycle <= 1
