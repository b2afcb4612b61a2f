# SPDX-License-Identifier: Apache-2.0
"""All jobs that have a network."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType

from hpcnet.tui import figures
from hpcnet.tui.picture import JobView
from hpcnet.tui.rows import JOB_ORDER, at_least, job_columns, job_row, lacks
from hpcnet.tui.screens import cleanup
from hpcnet.tui.screens.watching import Watching
from hpcnet.tui.session import Session
from hpcnet.tui.view import Order, matches
from hpcnet.tui.widgets.facts import Facts, Part, pair
from hpcnet.tui.widgets.table.table import Row, Table


class JobsScreen(Watching):
    """One line for each job."""

    TITLE = "Jobs"
    ORDERS: ClassVar[tuple[str, ...]] = tuple(JOB_ORDER)
    BINDINGS: ClassVar[list[BindingType]] = [cleanup.CLEANUP]

    def __init__(self, session: Session) -> None:
        super().__init__(session, Order("rx"))
        self._jobs: list[JobView] = []

    def content(self) -> ComposeResult:
        """The table, and what it has no room for."""
        yield Table(job_columns(self.session.view), id="jobs")
        yield Facts(id="row")

    def load(self) -> None:
        """All jobs, whether they are shown or not."""
        self._jobs = self.session.seen.jobs()

    def _shown(self) -> list[JobView]:
        assert self.order is not None
        shown = [
            job
            for job in self._jobs
            if not (self.session.view.mine and job.info.user != self.session.user)
            and matches(
                self.words,
                job.info.label,
                job.info.user,
                job.info.account,
                job.network,
                job.info.state,
                job.problem,
            )
        ]
        return self.order.sort(shown, JOB_ORDER)

    def _jobs_by_key(self) -> dict[str, JobView]:
        return {str(job.info.job_id): job for job in self._shown()}

    def draw(self) -> None:
        """The rows."""
        view, jobs = self.session.view, self._jobs_by_key()
        table = self.query_one(Table)
        table.set_columns(job_columns(view))
        table.empty = self._nothing()

        def row(key: str, widths: dict[str, int]) -> Row:
            return job_row(jobs[key], view, widths.get("history", 0), self.now)

        assert self.order is not None
        table.show(list(jobs), row, (self.order.column, self.order.down))
        chosen = jobs.get(table.key or "")
        rest = table.left_out(job_row(chosen, view, 0, self.now)) if chosen else []
        self.query_one("#row", Facts).show([pair("job", chosen.info.label) + rest] if chosen and rest else [])

    @on(Table.Moved)
    def _moved(self) -> None:
        self.paint()

    def _nothing(self) -> str:
        if self._jobs:
            whose = "of yours " if self.session.view.mine else ""
            return f"no job {whose}matches; esc clears the filter, a shows all jobs"
        if self.session.feed.problem:
            return self.session.feed.problem
        return "no job has a network now" if self.session.feed.listed else "asking Slurm for the jobs ..."

    def where(self) -> list[Part]:
        """How many there are, and what they move together."""
        shown, view = self._shown(), self.session.view
        numbers = [view.values(job.sum.rates, job.sum.counted) for job in shown]
        unit, sign = view.unit, at_least(view, any(lacks(job.sum, view) for job in shown))
        parts = [("hpcnet ", "title"), (f" {len(shown)} job{'' if len(shown) == 1 else 's'}", "")]
        if view.mine:
            parts.append((" of mine", ""))
        for name, column in zip(("rx", "tx"), zip(*numbers)):
            known = [value for value in column if value is not None]
            text = sign + figures.quantity(sum(known)) if known else figures.UNKNOWN
            parts.append((f"  {name} {text}{unit}", "muted"))
        return parts

    def action_cleanup(self) -> None:
        """Of the job under the cursor, bound when the key is pressed."""
        job = self._jobs_by_key().get(self.query_one(Table).key or "")
        if job is not None:
            cleanup.ask(self, self.session, job.info)

    @on(Table.Chosen)
    def _open(self, event: Table.Chosen) -> None:
        from hpcnet.tui.screens.job import JobScreen

        job = self.session.seen.job(int(event.key))
        if job is not None:
            self.app.push_screen(JobScreen(self.session, job))

    def document(self) -> dict[str, Any]:
        """The jobs in the order in which they are seen."""
        return {
            "jobs": [
                {
                    **asdict(job.info),
                    **job.sum.document(),
                    "silent": list(job.silent),
                    "problem": job.problem,
                }
                for job in self._shown()
            ]
        }
