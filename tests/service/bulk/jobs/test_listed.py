"""Lists of pictures in blocks."""

import pytest

from service.bulk.jobs.listed import Listed, in_blocks


def rows(groups: list[int]) -> list[Listed]:
    return [
        Listed(f"table#{group}.{row}", "", source="table", column="image", row_group=group, row=row)
        for group, size in enumerate(groups)
        for row in range(size)
    ]


@pytest.mark.parametrize(
    ("groups", "blocks"),
    [
        ([], []),
        ([4, 4], [[0] * 4, [1] * 4]),
        ([3, 3, 3], [[0] * 3, [1] * 3, [2] * 3]),
        ([2, 2, 2], [[0, 0, 1, 1], [2, 2]]),
        ([1] * 5, [[0, 1, 2, 3], [4]]),
        ([6, 2, 2], [[0] * 4, [0, 0, 1, 1], [2, 2]]),
        ([9], [[0] * 4, [0] * 4, [0]]),
    ],
)
def test_a_row_group_is_divided_only_if_it_exceeds_a_block(
    groups: list[int], blocks: list[list[int]]
) -> None:
    found = in_blocks(rows(groups), 4)
    assert [[each.row_group for each in block] for block in found] == blocks
    assert [each for block in found for each in block] == rows(groups)


def test_pictures_without_row_groups_fill_their_blocks() -> None:
    files = [Listed(f"file{number}", "") for number in range(10)]
    assert [len(block) for block in in_blocks(files, 4)] == [4, 4, 2]
