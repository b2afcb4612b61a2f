# SPDX-License-Identifier: Apache-2.0
"""docs/operations.md has what hooks and cleanup say, in the words that they say it in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PHRASES = {
    "hpcnet/allocation.py": (
        "leased",
        "keeps",
        "asked for no network",
        "is gone before it had its network",
        "; but its record does not say so: ",
        "ended leases are kept: ",
        "reboots or is cleaned",
        "is gone without an EpilogSlurmctld: lease ",
        "is ending",
        "is not held any more",
        "had no lease",
    ),
    "hpcnet/leasestore.py": (
        "overlaps another job's; not restored",
        "made anew; leases restored from job records: ",
        "is corrupt; kept as ",
    ),
    "hpcnet/lifecycle.py": (
        "what was built may still carry traffic: ",
        "are still let in, to no device: ",
        "the filter still knows the link ",
        "is left: ",
        "Docker network ",
        "; hpcnet cleanup removes it",
        "which hpcnet did not make; it stays",
    ),
    "hpcnet/cli/hooks.py": (
        "its network may still carry traffic: ",
        "no account of what it moved: ",
        "([hooks] deadline)",
        "; does it hang?",
        "internal error, please report: ",
    ),
    "hpcnet/counters/account.py": ("its account is not kept: ",),
    "hpcnet/kernel/netns.py": ("cannot come back from a job's network: ",),
    "hpcnet/reap.py": (
        "built before this node was booted",
        "slurmstepd runs steps of it here",
        "cannot reach slurmctld, so it stays: ",
        "ahead of this node's clock",
        "only its name says that it is hpcnet's",
        "its Prolog or Epilog is at work",
        "it has changed since it was judged",
    ),
    "hpcnet/cli/cleanup.py": (
        "CANNOT BE REMOVED",
        "packet filter: ",
        "Docker: ",
        "no network here has it",
        "put in quarantine",
        "freed",
        "leases are kept: ",
    ),
    "spank_hooks/hook": ("failed with exit code ", "; is its file system mounted?"),
}


def page() -> str:
    return " ".join((CHECKOUT / "docs/operations.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("file", PHRASES)
def test_each_phrase_is_in_the_code_and_on_the_page(file: str) -> None:
    code, told = (CHECKOUT / file).read_text(encoding="utf-8"), page()
    for phrase in PHRASES[file]:
        assert phrase in code, f"{file} does not say it any more: {phrase}"
        assert phrase.strip(";: ") in told, f"docs/operations.md does not explain: {phrase}"


def test_no_verdict_of_cleanup_is_left_out() -> None:
    """Each begins as it does on the page, up to its first value or comma."""
    code = (CHECKOUT / "hpcnet/reap.py").read_text(encoding="utf-8")
    reasons = re.findall(r"Verdict\([A-Z]+, f?\"([^\"{]+)", code)
    assert len(reasons) >= 9
    begun = [re.split("[;,(]", reason)[0].strip() for reason in reasons]
    assert not [words for words in begun if words not in page()]
