# SPDX-License-Identifier: Apache-2.0
"""Removing what is left of a job, behind a question that names it."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from hpcnet.counters.model import JobInfo
from hpcnet.tui.screens.watching import Watching
from hpcnet.tui.session import Session

CLEANUP = Binding(
    "x",
    "cleanup",
    "cleanup",
    id="cleanup",
    tooltip="Remove what is left of a job (root; asks first)",
)


class Question(ModalScreen[bool]):
    """Yes or no; anything but a yes is a no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q,enter", "answer(False)", "no"),
    ]

    def __init__(self, job: JobInfo, command: str) -> None:
        super().__init__()
        self._job, self._command = job, command

    def compose(self) -> ComposeResult:
        """The question, and what would be done."""
        job = self._job
        with Vertical(id="question"):
            yield Static(f"Remove what is left of job {job.label} of {job.user}?", id="asked", markup=False)
            yield Static(self._command, markup=False)
            yield Static("The network of a job that lives, or may live, is kept.", markup=False)
            yield Static("y  yes, remove it      n  no", id="answers", markup=False)

    def action_answer(self, answer: bool) -> None:
        """Close it."""
        self.dismiss(answer)


def ask(screen: Watching, session: Session, job: JobInfo) -> None:
    """Ask; after a yes, do it in a thread. What it says goes to the events, its first line is shown at once."""
    commands = session.commands
    if commands is None:
        return

    def work() -> None:
        said = list(commands.run_cleanup(job))
        if commands.closed:
            return
        session.feed.note(said)
        more = "; v shows the rest" if len(said) > 1 else ""
        screen.app.call_from_thread(screen.app.notify, f"{said[0].text}{more}", markup=False)

    def answered(yes: bool | None) -> None:
        if yes:
            screen.app.notify(f"job {job.label}: cleanup is at work", markup=False)
            screen.app.run_worker(work, thread=True, exit_on_error=False)

    screen.app.push_screen(Question(job, " ".join(("hpcnet", *commands.cleanup(job)))), answered)
