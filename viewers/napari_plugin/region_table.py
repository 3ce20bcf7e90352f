"""The regions in review as a table: a picture of each, its score, and what was said of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from napari.qt.threading import thread_worker
from qtpy.QtCore import QSize
from qtpy.QtGui import QBrush, QColor, QIcon, QImage, QPixmap

from tiling.errors import WSIError
from tiling.store import SlideStore
from viewers.napari_plugin.row_table import RowTable
from viewers.review.log import Verdict
from viewers.review.regions import RankedRegion, region_thumbnail

COLUMNS = ("", "score", "rank in slide", "verdict", "note")
PICTURE, SCORE, RANK, VERDICT, NOTE = range(5)
THUMBNAIL_PX = 72
ANSWER_COLOURS = {"agree": "#2e7d32", "disagree": "#c62828", "unsure": "#ef6c00"}


class RegionTable(RowTable):
    """A row a region, the first the highest; pictures come from a thread of their own."""

    def __init__(self) -> None:
        super().__init__(COLUMNS, stretched=NOTE, widths={PICTURE: THUMBNAIL_PX + 8})
        self.setIconSize(QSize(THUMBNAIL_PX, THUMBNAIL_PX))
        self.verticalHeader().setDefaultSectionSize(THUMBNAIL_PX + 4)
        self.setToolTip("Click a region, or walk by Enter, J and K")
        self._worker: Any = None

    def show_regions(self, regions: Sequence[RankedRegion]) -> None:
        """Fill the table; what was said is shown by `show_verdict`."""
        self.setRowCount(len(regions))
        for row, region in enumerate(regions):
            self.put(row, PICTURE, "").setToolTip(
                f"Region {region.rank}: {len(region.tiles)} tiles, sum {region.mass:.3g}, level-0 "
                f"x {region.box.x0}, y {region.box.y0}"
            )
            self.put(row, SCORE, f"{region.peak:.3g}")
            self.put(row, RANK, f"P{100 * region.percentile:.1f}")

    def show_verdict(self, row: int, said: Verdict | None) -> None:
        """Show what the reader said of a region."""
        answer = "" if said is None else said.answer or ""
        colour = QBrush(QColor(ANSWER_COLOURS[answer])) if answer else QBrush()
        self.put(row, VERDICT, answer).setBackground(colour)
        self.put(row, NOTE, "" if said is None else said.note)

    def load_pictures(self, store: SlideStore, regions: Sequence[RankedRegion]) -> None:
        """Let a thread read the pictures; those of other regions come no more."""
        self.stop_loading()
        worker = thread_worker(_pictures)(store, regions)
        worker.yielded.connect(partial(self._show_picture, worker))
        self._worker = worker
        worker.start()

    def stop_loading(self) -> None:
        """Let the thread end after the picture that it is at."""
        if self._worker is not None:
            self._worker.quit()
        self._worker = None

    def _show_picture(self, worker: Any, found: tuple[int, Any]) -> None:
        row, pixels = found
        if worker is not self._worker or row >= self.rowCount():
            return
        height, width = pixels.shape[:2]
        image = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
        self.put(row, PICTURE, "").setIcon(QIcon(QPixmap.fromImage(image)))


def _pictures(store: SlideStore, regions: Sequence[RankedRegion]) -> Iterator[tuple[int, Any]]:
    """Yield (row, pixels) of the regions that can be read; a slide that is gone has none."""
    from tiling.slide import open_slide

    try:
        with open_slide(store.slide_path, mpp=store.slide_mpp) as slide:
            for row, region in enumerate(regions):
                yield row, region_thumbnail(slide, region.box, THUMBNAIL_PX)
    except WSIError:
        return
