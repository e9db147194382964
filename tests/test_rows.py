"""Rows are shown, kept, read back and compared without losing one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from streamer.models.errors import StreamerError
from streamer.rows import Row, as_json, as_table, as_words, read_json, slower

ROW = Row(
    model="m",
    engine="kernels",
    precision="int8",
    threads=2,
    voices=8,
    parameters=1_000_000,
    samples_per_s=24_000.0,
    spread=0.02,
    realtime=1.5,
    weight_bytes=2**20,
    gb_per_s=25.2,
    roofline_share=0.85,
    state_bytes=2**11,
    ratio_to_cached=20.5,
    ratio_to_uncached=None,
    ratio_to_reference=0.2,
)
TORCH = replace(ROW, engine="torch-cached", precision="fp32", roofline_share=None, samples_per_s=8.25)


def test_table_holds_every_row_in_aligned_columns() -> None:
    lines = as_table([ROW, TORCH]).splitlines()
    assert len({len(line) for line in lines}) == 1
    first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])
    assert first[:8] == ["m", "kernels", "int8", "2", "8", "24,000", "2%", "1.50"]
    assert first[8:] == ["1.00 MiB", "25.2", "85%", "2 KiB", "20.5", ""]
    assert (second[1], second[5], second[10]) == ("torch-cached", "8.2", "")


def test_json_is_read_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(as_json([ROW, TORCH]))
    assert read_json(path) == [ROW, TORCH]


@pytest.mark.parametrize("text", ["", "{}x", "[1]", '[{"model": "m"}]', "3"])
def test_a_file_without_rows_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(StreamerError, match="holds no rows"):
        read_json(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StreamerError, match="cannot be read"):
        read_json(tmp_path / "nowhere.json")


def test_fields_that_later_versions_add_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{**json.loads(as_json([ROW]))[0], "colour": "red"}]))
    assert read_json(path) == [ROW]


def test_a_row_that_lost_more_than_a_tenth_is_named() -> None:
    others = [replace(ROW, precision=precision) for precision in ("fp32", "bf16")]
    now = [
        replace(ROW, ratio_to_reference=0.179),
        *(replace(row, ratio_to_reference=0.181) for row in others),
    ]
    lost = slower(now, [ROW, *others])
    assert lost == {ROW.key: pytest.approx(0.895)}
    assert as_words({ROW.key: 0.894}) == [
        "slower: m, kernels, int8, threads 2, voices 8 has 89% of the baseline's speed beside the fixed loop"
    ]


def test_raw_speed_does_not_count() -> None:
    assert slower([replace(ROW, samples_per_s=1.0)], [ROW]) == {}


def test_rows_of_one_side_only_are_left_out() -> None:
    new = replace(ROW, precision="bf16", ratio_to_reference=0.01)
    assert slower([ROW, new], [ROW, replace(ROW, voices=1)]) == {}
    with pytest.raises(StreamerError, match="no row is in the baseline"):
        slower([new], [ROW])
