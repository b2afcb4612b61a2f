# SPDX-License-Identifier: Apache-2.0
"""What the keys do, on the application itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key, MouseScrollDown
from textual.pilot import Pilot
from textual.widgets import OptionList

from hpcnet.tui.app import HpcnetApp
from hpcnet.tui.figures import quantity
from hpcnet.tui.screens.events import EventsScreen
from hpcnet.tui.screens.help import HelpScreen
from hpcnet.tui.screens.job import JobScreen
from hpcnet.tui.screens.jobs import JobsScreen
from hpcnet.tui.screens.node import NodeScreen
from tests.tui.stage import LARGE, SMALL, Stage


def test_the_cursor_stays_on_its_job_when_rows_move() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("down", "down", "down")
        key = stage.table.key
        assert key is not None
        job = stage.feed.job(int(key))
        assert job is not None
        before = stage.line_of(job.info.label)
        places = set()
        for _ in range(len(stage.screen.ORDERS)):
            await pilot.press("s")
            await pilot.pause()
            assert stage.table.key == key
            places.add(stage.line_of(job.info.label))
        assert len(places | {before}) > 2, "no order moved the row: this shows nothing"
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(stage.screen, JobScreen)
        assert str(stage.screen.job_id) == key

    stage.run(play)


def test_samples_that_change_the_order_leave_the_cursor_on_its_job() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        order = list(stage.table._keys)
        await pilot.press("down", "down")
        key = stage.table.key
        for _ in range(30):
            stage.tick()
            await pilot.pause()
            assert stage.table.key == key
        assert stage.table._keys != order

    stage.run(play)


def test_a_row_that_goes_leaves_the_cursor_where_it_was() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("down", "down")
        keys = list(stage.table._keys)
        stage.screen.words = f"{keys[1][:3]}"
        stage.table.show([key for key in keys if key != keys[2]], stage.table._row, stage.table._order)
        assert stage.table.key == keys[3]

    stage.run(play)


def test_filter() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("slash", *"direct")
        await pilot.pause()
        shown = [job.info.mode for job in stage.feed.jobs() if job.info.mode == "direct"]
        assert len(stage.table._keys) == len(shown) > 1
        await pilot.press("enter", "s")
        await pilot.pause()
        assert "/direct" in stage.text()[0]
        assert len(stage.table._keys) == len(shown), "s sorts, it is no text any more"
        await pilot.press("escape")
        await pilot.pause()
        assert len(stage.table._keys) == 20
        await pilot.press("slash", *"nosuchjob")
        await pilot.pause()
        assert any("no job matches; esc clears" in line for line in stage.text())
        assert stage.table.key is None

    stage.run(play)


def test_two_enters_at_once_keep_the_filter_and_open_the_row() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("slash", *"direct")
        for _ in range(2):
            stage.app.post_message(Key("enter", "\r"))
        await pilot.pause()
        await pilot.pause()
        assert isinstance(stage.screen, JobScreen)

    stage.run(play)


def test_mine() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("a")
        await pilot.pause()
        users = {line.split()[1] for line in stage.text()[2:22] if line.strip() and line.split()[0].isdigit()}
        assert users == {"alice"}

    stage.run(play)


def test_interval() -> None:
    stage = Stage()
    watches: list[float] = []
    real = stage.source.watch

    def watch(job_ids: Iterable[int], interval: float) -> Any:
        watches.append(interval)
        return real(job_ids, interval)

    stage.source.watch = watch  # type: ignore[method-assign]
    stage.feed.start()

    async def play(pilot: Pilot[Any]) -> None:
        for key, seconds in (("plus", 5), ("plus", 10), ("minus", 5), ("minus", 2), ("minus", 1), ("minus", 1)):
            await pilot.press(key)
            await pilot.pause()
            assert stage.feed.interval == seconds
            assert f"every {seconds} s" in stage.text()[0]
            deadline = time.monotonic() + 10
            while watches[-1:] != [seconds]:
                stage.feed.list_jobs()
                assert time.monotonic() < deadline, f"sampled every {watches[-1:]} s, not {seconds}"
                time.sleep(0.01)

    stage.run(play)
    stage.feed.close()


def test_down_to_an_interface_and_back() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(stage.screen, JobScreen)
        folded = len(stage.table._keys)
        assert folded < 5
        await pilot.press("end", "enter")  # opens the fold
        await pilot.pause()
        assert len(stage.table._keys) > 12
        await pilot.press("f", "home", "enter")
        await pilot.pause()
        assert isinstance(stage.screen, NodeScreen)
        text = "\n".join(stage.text())
        for word in ("hpc0", "hpcvx", "mlx5_0/1", "namespace hpcnet-", "fd68:7063:", "02:42:0a:", "dropped"):
            assert word in text
        await pilot.press("down")
        await pilot.pause()
        assert "interface hpcvx" in "\n".join(stage.text())
        await pilot.press("escape", "escape")
        await pilot.pause()
        assert isinstance(stage.screen, JobsScreen)
        await pilot.press("escape")
        assert isinstance(stage.screen, JobsScreen)

    stage.run(play)


def test_a_job_that_ends_while_it_is_looked_at_stays_as_it_was() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("enter")
        assert isinstance(stage.screen, JobScreen)
        gone = stage.screen.job_id
        del stage.source._jobs[gone]
        stage.feed.list_jobs()
        stage.tick()
        await pilot.pause()
        assert any("has ended" in line for line in stage.text())
        await pilot.press("escape")
        await pilot.pause()
        assert str(gone) not in stage.table._keys
        assert stage.table.key is not None
        await pilot.press("v")
        await pilot.pause()
        assert any(f" {gone} " in line and "ended" in line for line in stage.text())

    stage.run(play)


def test_help_names_every_key() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("question_mark")
        await pilot.pause()
        assert isinstance(stage.app.screen, HelpScreen)
        text = "\n".join(stage.text())
        for key, what in stage.app.all_keys():
            assert f" {key} " in text and what in text
        await pilot.press("escape")
        await pilot.press("v")
        await pilot.pause()
        assert isinstance(stage.screen, EventsScreen)

    stage.run(play, LARGE)


def test_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage = Stage()
    shown: dict[str, list[str]] = {}
    told: dict[str, list[str]] = {}

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("slash", *"48210", "enter", "e", "enter")
        await pilot.pause()
        await pilot.press("f", "s", "r", "home", "e")
        await pilot.pause()
        text = stage.text()
        told.update({line.split()[-3]: line.split()[-2:] for line in text[3:10]})
        shown.update(
            {
                line.split()[0]: line.split()
                for line in text[12:]
                if line.split()[:1] and line.split()[0][1:].isdigit()
            }
        )
        await pilot.press("home", "enter", "e", "v", "e")
        await pilot.pause()

    stage.run(play)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}, "counters are their owner's"
    jobs, job, node, events = (json.loads(file.read_text()) for file in sorted(tmp_path.iterdir(), key=_number))
    assert [each["job_id"] for each in jobs["jobs"]] == [48210]
    assert (jobs["schema"], jobs["filter"]) == (1, "48210")
    assert job["job"]["job_id"] == jobs["jobs"][0]["job_id"]
    assert jobs["jobs"][0]["rates"] == job["sum"]["rates"]
    # line by line what was seen: state or silence, and the rates
    for each in (*job["nodes"], job["slowest"] and {"node": job["slowest"]}):
        assert each is None or each["node"] in job["job"]["nodes"]
    rates = {each["node"]: each["rates"] for each in job["nodes"]}
    for name, line in shown.items():
        assert line[-4:-2] == [quantity(rates[name][way] * 8) for way in ("rx_bytes", "tx_bytes")]
    assert list(shown) == list(rates)[: len(shown)] and len(shown) > 3, "in the order in which they are seen"
    assert told["sum"] == [quantity(job["sum"]["rates"][way] * 8) for way in ("rx_bytes", "tx_bytes")]
    assert told["median"] == [quantity(job["median"]["rates"][way] * 8) for way in ("rx_bytes", "tx_bytes")]
    assert {at["kind"] for at in job["nodes"][0]["interfaces"]} == {"tasks", "segment", "port"}
    known = {(each["kind"], each["counters"]["rx_bytes"] is None) for each in node["interfaces"]}
    assert known == {("tasks", False), ("segment", False), ("port", False)}
    assert events["events"]


def _number(file: Path) -> int:
    last = file.stem.rpartition("-")[2]
    return int(last) if last.isdigit() else 1


def test_export_where_one_may_not_write_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    stage = Stage(rounds=3)
    said: list[str] = []

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("e")
        await pilot.pause()
        said.extend(note.message for note in stage.app._notifications)

    stage.run(play)
    assert len(said) == 1 and "cannot be written here: No such file" in said[0]


@pytest.mark.parametrize("order", [[SMALL, LARGE, (40, 10), SMALL], [LARGE, (200, 60), SMALL]])
def test_resizing_loses_neither_cursor_nor_keys(order: list[tuple[int, int]]) -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("end", "up")
        key = stage.table.key
        for size in order:
            await pilot.resize_terminal(*size)
            await pilot.pause()
            assert stage.table.key == key
            assert any(str(key) in line for line in stage.text()), "the cursor's row is out of sight"
            assert "quit" in "\n".join(stage.text()[-4:])
            assert {len(line) for line in stage.text()} == {size[0]}

    stage.run(play, order[0])


def test_the_line_of_keys_can_be_clicked_and_the_wheel_turns_the_table() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        async def click(word: str) -> None:
            y = next(y for y, line in enumerate(stage.text()) if word in line)
            await pilot.click(offset=(stage.text()[y].index(word), y))
            await pilot.pause()

        await click("b p c unit")
        assert stage.app.session.view.bytes
        await click("spc freeze")
        assert stage.app.session.view.frozen
        await click("+ - pace")
        assert stage.feed.interval == 5
        await click("t theme")
        assert stage.app.theme == "hpcnet-light"
        before = stage.text()[2]
        assert stage.table.scroll_offset.y == 0
        await pilot._post_mouse_events([MouseScrollDown], stage.table, (5, 5))
        await pilot.pause()
        assert stage.table.scroll_offset.y > 0 and stage.text()[2] != before
        await click("v events")
        assert isinstance(stage.screen, EventsScreen)

    stage.run(play)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_every_key_is_in_the_line_of_keys(size: tuple[int, int]) -> None:
    stage = Stage(rounds=3)

    async def play(pilot: Pilot[Any]) -> None:
        for words in ("w record  t theme  ^p commands", "q quit"):
            assert words in "\n".join(stage.text()[-3:])

    stage.run(play, size)


def test_mouse() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.click("Table", offset=(5, 4))
        key = stage.table._keys[3]
        assert stage.table.key == key
        head = stage.text()[1].index("NODES")
        await pilot.click("Table", offset=(head, 0))
        await pilot.pause()
        assert stage.screen.order is not None
        assert (stage.screen.order.column, stage.table.key) == ("nodes", key)
        await pilot.click("Table", offset=(5, 1 + stage.table._keys.index(key)))
        await pilot.pause()
        assert isinstance(stage.screen, JobScreen)

    stage.run(play)


def test_other_keys() -> None:
    stage = Stage()
    stage.app = HpcnetApp(stage.app.session, keys={"bytes": "z", "quit": "x,ctrl+x"}, paced=False)

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("b")
        assert not stage.app.session.view.bytes
        await pilot.press("z")
        assert stage.app.session.view.bytes
        await pilot.pause()
        assert "p c z unit" in "\n".join(stage.text()[-2:])
        assert ("z", "Bits, or bytes") in stage.app.all_keys()

    stage.run(play)


def test_command_palette() -> None:
    stage = Stage()

    async def play(pilot: Pilot[Any]) -> None:
        await pilot.press("ctrl+p", *"counters")
        while not (found := stage.app.screen.query(OptionList)) or found.first().option_count != 1:
            await pilot.pause(0.1)  # it searches beside
        await pilot.press("enter")
        while not stage.app.session.view.total:
            await pilot.pause(0.1)

    stage.run(play)
