"""Which sidecar blocks have an image in the log."""

from __future__ import annotations

from pfs.wal.sidecar_images import SidecarImages


def test_a_block_has_an_image_until_the_next_checkpoint() -> None:
    images = SidecarImages()
    assert images.missing(7, range(2, 5)) == (2, 3, 4)
    for block, end in ((2, 100), (3, 300), (4, 200)):
        images.add(7, block, end)
    assert images.missing(7, range(2, 6)) == (5,)
    assert images.missing(8, [2]) == (2,)
    assert images.end(7, range(2, 5)) == 300
    assert images.end(7, [2]) == 100
    images.clear()
    assert images.missing(7, [2]) == (2,)


def test_the_images_of_a_files_blocks_from_one_on_can_be_forgotten() -> None:
    images = SidecarImages()
    for file_id in (7, 8):
        for block in range(4):
            images.add(file_id, block, 10)
    images.forget(7, 2)
    images.forget(9)
    assert images.missing(7, range(4)) == (2, 3)
    assert images.missing(8, range(4)) == ()
