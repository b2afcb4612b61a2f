# SPDX-License-Identifier: Apache-2.0
"""The hpcnet-tui command."""

from __future__ import annotations

import argparse
import gc
import os
import pwd
import sys
import threading
from collections.abc import Sequence

from hpcnet.counters.source import Source
from hpcnet.counters.transports import AUTO, TRANSPORTS
from hpcnet.errors import HpcnetError, UserError
from hpcnet.names import CONFIG_FILE

INTERVAL = 2.0
"""Seconds between samples, when one does not say."""

_HELP = """\
Watch the networks of jobs: what each moves, on which nodes, through which interfaces.

keys: arrows and enter walk, esc goes back, / filters, ? explains all of them. Where stdout is not a terminal, it
is "hpcnet stats --once".

examples:
  hpcnet-tui                          my jobs; root's and admins' show all
  hpcnet-tui --demo                   a cluster that is made up, to look around
  hpcnet-tui --interval 10 --theme light
  hpcnet-tui --replay hpcnet-20260101T120000Z.ndjson
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hpcnet-tui", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--demo", action="store_true", help="watch a cluster that is made up")
    source.add_argument("--replay", metavar="FILE", help="watch a recording, made with the key w")
    parser.add_argument("--seed", type=int, default=1, help="of the demo; the same seed, the same cluster")
    parser.add_argument("--jobs", type=_count, default=20, metavar="N", help="of the demo (20)")
    parser.add_argument("--nodes", type=_count, default=1000, metavar="N", help="of the demo's largest job (1000)")
    parser.add_argument("--equal", action="store_true", help="of the demo: every job has all the nodes")
    parser.add_argument(
        "--interval", type=_interval, metavar="SECONDS", help=f"between samples, 1 to 60 ({INTERVAL:g})"
    )
    parser.add_argument("--theme", choices=("dark", "light", "plain"), help="dark; with NO_COLOR set, plain")
    parser.add_argument(
        "--transport", choices=TRANSPORTS, default=AUTO, help="the way to the counters: see hpcnet stats --help"
    )
    parser.add_argument(
        "--config", metavar="FILE", default=CONFIG_FILE, help=f"the site's configuration ({CONFIG_FILE})"
    )
    parser.add_argument("--ascii", action="store_true", help="no character outside ASCII")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10000:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 1 to 10000")
    return int(text)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 60")
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 1 with one line on stderr, or 2 for a wrong option."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.replay and options.interval:
        parser.error("argument --interval: not allowed with argument --replay, a recording has its own")
    try:
        return _run(options)
    except HpcnetError as error:
        print(f"hpcnet-tui: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _source(options: argparse.Namespace) -> Source:
    if options.demo:
        from hpcnet.tui.demo import DemoSource

        return DemoSource(options.seed, options.jobs, options.nodes, options.equal)
    from hpcnet.counters.transports import transport

    return transport(options.transport, options.config)


def _run(options: argparse.Namespace) -> int:
    if not sys.stdout.isatty() or not sys.stdin.isatty():
        if options.demo or options.replay:
            raise UserError("stdout is not a terminal; --demo and --replay are for one")
        sys.stdout.flush()
        words = ["stats", "--once", "--transport", options.transport, "--config", options.config]
        os.execv(sys.executable, [sys.executable, "-I", "-m", "hpcnet", *words])
    # Read when textual is imported, and by it alone.
    os.environ["TEXTUAL_ANIMATIONS"] = "none"
    no_color = "NO_COLOR" in os.environ
    try:
        from hpcnet.tui.app import HpcnetApp
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("textual", "rich"):
            raise
        raise HpcnetError("textual is not installed; install hpcnet[tui], or use: hpcnet stats") from None
    from hpcnet.tui import keys
    from hpcnet.tui.feed import Feed
    from hpcnet.tui.session import Session
    from hpcnet.tui.themes import THEMES
    from hpcnet.tui.view import View

    # Samples live for two intervals and have no cycles: the collector would walk them again and again.
    gc.set_threshold(50_000, 20, 100)
    own_keys = keys.load(keys.path())
    replay = None
    if options.replay:
        from hpcnet.tui.recording import LISTING, Replay

        replay = Replay(options.replay)
        feed = Feed(replay, replay.interval, replay.clock, LISTING)
    else:
        feed = Feed(_source(options), options.interval or INTERVAL)
    what = "demo" if options.demo else os.path.basename(options.replay or "")
    plain_terminal = no_color or os.environ.get("TERM") == "dumb"
    theme = THEMES[options.theme or ("plain" if plain_terminal else "dark")]
    commands = None
    if not what:
        from hpcnet.tui.commands import Commands

        commands = Commands(options.config)
    session = Session(feed, View(ascii=options.ascii), _user(options), what, replay, commands)
    app = HpcnetApp(session, theme.name, own_keys)
    try:
        app.run()
    finally:
        feed.close()
    code = app.return_code or 0
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        # Of a pool, which Python would wait for: an agent that does not answer holds nobody up.
        sys.stdout.flush()
        os._exit(code)
    return code


def _user(options: argparse.Namespace) -> str:
    if options.demo:
        return "alice"
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


if __name__ == "__main__":
    sys.exit(main())
