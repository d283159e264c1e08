"""Captions for training pictures: looked at by a captioner, written as text files beside them, nothing lost.

for row in Captioning(Path("photos"), captioner, Wish(trigger="sks", class_word="dog")):
    print(row.state, row.name, row.caption)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from studio.caption_backup import back_up, put
from studio.caption_files import Plan
from studio.caption_pictures import look
from studio.caption_rows import Job, Row
from studio.caption_wish import Wish
from studio.pipelines.captioners.base import Captioner
from studio.pipelines.captioners.words import twin
from studio.pipelines.data_image import shown
from studio.pipelines.data_pictures import Pictures

if TYPE_CHECKING:
    from torch import Tensor


class Captioning:
    """Iterated over, it captions a folder and yields a `Row` for every picture, each as soon as it is settled.

    backup: the zip of what `force` replaced, once something was. DataError: the folder is missing or empty.
    doubt: says of a picture why the captioner may not know its like, '' where it does; batch: pictures at a time.
    """

    def __init__(
        self,
        folder: Path,
        captioner: Captioner,
        wish: Wish,
        doubt: Callable[[Tensor], str] = lambda picture: "",
        batch: int = 8,
    ) -> None:
        self.captioner, self.wish, self.doubt, self.batch = captioner, wish, doubt, batch
        self.root = folder.parent if folder.is_file() else folder
        listing = Pictures(folder=folder, background=wish.background).listing()
        plan = Plan(self.root, wish.force, wish.recursive, (wish.trigger, wish.class_word))
        items = list(plan(listing))
        self.jobs = [item for item in items if isinstance(item, Job)]
        self.settled = [item for item in items if isinstance(item, Row)]
        self.backup: Path | None = None
        self.doubts: list[str] = []

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.jobs) + len(self.settled)

    def __iter__(self) -> Iterator[Row]:
        yield from self.settled
        for start in range(0, len(self.jobs), self.batch):
            yield from self.some(self.jobs[start : start + self.batch])

    def some(self, jobs: Sequence[Job]) -> Iterator[Row]:
        """The rows of a few pictures, looked at together."""
        seen = list(zip(jobs, look([job.picture for job in jobs], self.wish.background), strict=True))
        good = [(job, picture) for job, picture in seen if not isinstance(picture, str)]
        said = self.captioner([picture for _, picture in good]) if good else []
        captions = {job: text for (job, _), text in zip(good, said, strict=True)}
        for job, picture in seen:
            if isinstance(picture, str):
                yield Row(job.name, "left out", reason=picture)
                continue
            if why := self.doubt(picture):
                self.doubts.append(f"{job.name}: {why}")
            yield self.settle(job, self.wish.sentence(captions[job], job.words, self.captioner.nouns))

    def settle(self, job: Job, caption: str) -> Row:
        """Write one caption, or say what would be written."""
        file = shown(job.target.relative_to(self.root).as_posix())
        before, without = " ".join(job.said.split()), twin(caption, *job.words) if job.words[0] else ""
        if not caption:
            return Row(job.name, "left out", reason="the captioner has no words for it")
        if caption == before:
            return Row(job.name, "kept", file, caption, without, reason="the captioner says the same")
        if self.wish.dry_run:
            return Row(job.name, "planned", file, caption, without, before)
        if reason := self.changed(job) or self.save(job) or put(job.target, f"{caption}\n".encode()):
            return Row(job.name, "left out", file, before=before, reason=reason)
        return Row(job.name, "written", file, caption, without, before)

    def changed(self, job: Job) -> str:
        """That somebody wrote the text file since it was looked at; '' when nobody did."""
        now = job.target.read_bytes() if job.target.is_file() else b""
        return "" if now == job.before else f"{job.target.name} was written meanwhile, and is left as it is"

    def save(self, job: Job) -> str:
        """Keep a copy of all that may be replaced, before the first is; why that is not possible, or ''."""
        if not job.said or self.backup is not None:
            return ""
        self.backup, reason = back_up(self.root, self.jobs)
        return f"no copy of the old captions {reason}" if reason else ""
