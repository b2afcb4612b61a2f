# SPDX-License-Identifier: Apache-2.0
"""Whatever JSON the Docker driver is asked, it answers, and an error is one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcnet import journal, names
from hpcnet.agent.driver import Driver
from hpcnet.config import Site
from hpcnet.kernel import attachment as devices
from tests.unit.test_driver import FIRST, GENERIC, NETWORK, Kernel, begin, create_network, entry, start

METHODS = """
/Plugin.Activate /NetworkDriver.CreateNetwork /NetworkDriver.DeleteNetwork /NetworkDriver.CreateEndpoint
/NetworkDriver.EndpointOperInfo /NetworkDriver.DeleteEndpoint /NetworkDriver.Join /NetworkDriver.Leave
/NetworkDriver.DiscoverNew /NetworkDriver.DiscoverDelete /NetworkDriver.ProgramExternalConnectivity
/NetworkDriver.RevokeExternalConnectivity /NetworkDriver.GetCapabilities /IpamDriver.GetCapabilities
/IpamDriver.GetDefaultAddressSpaces /IpamDriver.RequestPool /IpamDriver.ReleasePool /IpamDriver.RequestAddress
/IpamDriver.ReleaseAddress
""".split()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [NETWORK, FIRST, "job/12", "12", "13", "job/13", "job/-1", "10.128.0.0/27", "a\nb", "9" * 30]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["NetworkID", "EndpointID", "Options", "Interface", "PoolID", "Pool", "Address", "V6", "SandboxKey"]
OPTIONS = st.fixed_dictionaries({}, optional={GENERIC: JSON, "job": JSON, "com.docker.network.portmap": JSON})
INTERFACE = st.fixed_dictionaries({}, optional={"Address": JSON, "MacAddress": JSON})
REQUESTS = (
    JSON
    | st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON))
    | st.fixed_dictionaries(
        {key: JSON for key in KEYS if key not in ("Options", "Interface")},
        optional={"Options": OPTIONS, "Interface": INTERFACE},
    )
)


@pytest.fixture(scope="module")
def one_job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Job 12 with a Docker network and a container, for many requests."""
    with pytest.MonkeyPatch.context() as patch:
        made = Kernel()
        patch.setattr(devices, "make", made.make)
        patch.setattr(devices, "remove", made.remove)
        patch.setattr(names, "STATE_DIR", str(tmp_path_factory.mktemp("arbitrary")))
        journal.prepare()
        begin(entry())
        create_network()
        start(FIRST)
        yield


@given(method=st.sampled_from(METHODS), request=REQUESTS)
def test_whatever_is_asked_is_answered(one_job: None, method: str, request: Any) -> None:
    answer = Driver(Site).answer(method, request)
    assert isinstance(answer, dict)
    if "Err" in answer:
        assert list(answer) == ["Err"]
        assert len(answer["Err"].splitlines()) == 1
    assert journal.read(12) == entry()
