# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from hpcnet import interfaces, jobfiles, names
from hpcnet.model import Lease, Plan
from hpcnet.plan import plan

PLUGIN = Path(__file__).parents[2] / "spank_hooks/verdict.c"

HOST_FILE = """\
127.0.0.1\tlocalhost
127.0.1.1 n1.example.org n1
::1 localhost ip6-localhost ip6-loopback
10.1.0.1 n1 n1.example.org n1.cluster  # management
10.1.0.2 n2 n2.example.org
10.1.0.30 n3 n30  # n3 is not of the job
10.2.0.1 n1-ib
# 10.1.0.9 commented

10.1.0.250 licences.example.org licences
fd00::2 n2 n2.example.org
fd00::250 licences
10.1.0.60 n1-gateway n12
"""


def plan_of(
    nodes: tuple[str, ...] = ("n1", "n2"),
    node: str = "n1",
    variables: Mapping[str, str] | None = None,
    **lease: Any,
) -> Plan:
    """The plan of job 12 over ``nodes``, seen from ``node``."""
    given = Lease(
        serial=7,
        mode="vxlan",
        vni=6815744,
        ipv4=IPv4Network("10.128.0.0/27"),
        ipv6=IPv6Network("fd68:7063:6e65::/64"),
        **lease,
    )
    underlays = {name: IPv4Address(0x0A020001 + rank) for rank, name in enumerate(nodes)}
    return plan(
        given, nodes, node, underlays, cluster="lab", job_id=12, uid=1001, uplink="ib0", uplink_mtu=1500,
        variables=variables,
    )  # fmt: skip


def looked_up(text: str) -> dict[str, list[str]]:
    """What a resolver finds in a hosts file: each name's addresses, in order (hosts(5))."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        address, *aliases = line.partition("#")[0].split() or [""]
        for alias in aliases:
            found.setdefault(alias, []).append(address)
    return found


def test_nodes_have_their_addresses_of_the_job_only() -> None:
    found = looked_up(jobfiles.hosts(plan_of(), HOST_FILE))
    assert found["n1"] == ["10.128.0.1", "fd68:7063:6e65::1"]
    assert found["n2"] == ["10.128.0.2", "fd68:7063:6e65::2"]


def test_longer_names_of_nodes_are_names_of_the_job() -> None:
    found = looked_up(jobfiles.hosts(plan_of(), HOST_FILE))
    assert found["n1.example.org"] == found["n1.cluster"] == found["n1"]
    assert found["n2.example.org"] == found["n2"]


def test_other_names_of_the_nodes_own_file_are_kept_with_their_addresses() -> None:
    found = looked_up(jobfiles.hosts(plan_of(), HOST_FILE))
    assert found["licences"] == ["10.1.0.250", "fd00::250"]
    assert found["licences.example.org"] == ["10.1.0.250"]
    assert found["n1-ib"] == ["10.2.0.1"]
    assert found["n3"] == found["n30"] == ["10.1.0.30"]
    assert found["n1-gateway"] == found["n12"] == ["10.1.0.60"]


def test_localhost_is_the_namespaces_own() -> None:
    found = looked_up(jobfiles.hosts(plan_of(), HOST_FILE))
    assert found["localhost"] == ["127.0.0.1", "::1"]
    assert not [name for name, addresses in found.items() if "127.0.1.1" in addresses]


def test_a_name_of_a_node_on_the_line_of_localhost_does_not_stay_there() -> None:
    found = looked_up(jobfiles.hosts(plan_of(), "127.0.0.1 localhost n1 n1.example.org\n"))
    assert found["n1"] == found["n1.example.org"] == ["10.128.0.1", "fd68:7063:6e65::1"]
    assert found["localhost"] == ["127.0.0.1", "::1"]


def test_containers_are_named_after_node_and_slot() -> None:
    made = plan_of(endpoints=4)
    found = looked_up(jobfiles.hosts(made, ""))
    assert found["n2-3"] == ["10.128.0.10", "fd68:7063:6e65::a"]
    assert set(found) >= {f"{node}-{slot}" for node in made.nodes for slot in (1, 2, 3, 4)}


def test_a_node_that_is_named_like_a_container_keeps_its_name() -> None:
    found = looked_up(jobfiles.hosts(plan_of(nodes=("n1", "n1-2"), endpoints=4), ""))
    assert found["n1-2"] == ["10.128.0.2", "fd68:7063:6e65::2"]
    assert set(found) >= {"n1-1", "n1-3", "n1-2-1"}


@pytest.mark.parametrize("endpoints", [0, 4])
def test_every_endpoint_of_the_job_has_a_name_of_its_own(endpoints: int) -> None:
    made = plan_of(endpoints=endpoints)
    found = looked_up(jobfiles.hosts(made, HOST_FILE))
    for endpoint in (*made.own, *made.peers):
        assert found[jobfiles.host_name(endpoint)] == [str(endpoint.ipv4), str(endpoint.ipv6)]


def test_all_nodes_of_the_job_say_the_same() -> None:
    texts = {jobfiles.hosts(plan_of(node=node, endpoints=4), HOST_FILE) for node in ("n1", "n2")}
    assert len(texts) == 1


@pytest.mark.parametrize(
    "host_file", ["", "\n\n", "# nothing\n", "10.1.0.9\n", "10.1.0.9 n1", "\x00\ufffd x\n", "10.1.0.9 other\r\n"]
)
def test_odd_files_of_a_node_do_no_harm(host_file: str) -> None:
    found = looked_up(jobfiles.hosts(plan_of(), host_file))
    assert found["n1"] == ["10.128.0.1", "fd68:7063:6e65::1"]


def test_a_network_file_in_full() -> None:
    made = plan_of(nodes=("n1", "n2", "n3"), node="n2", mtu=1400)
    assert jobfiles.network(made) == (
        "uid=1001\n"
        "join=tasks\n"
        "netns=hpcnet-12\n"
        "hosts=/run/hpcnet/jobs/12/hosts\n"
        "HPCNET_JOB_ID=12\n"
        "HPCNET_MODE=vxlan\n"
        "HPCNET_INTERFACE=hpc0\n"
        "HPCNET_ADDRESS=10.128.0.2\n"
        "HPCNET_ADDRESS6=fd68:7063:6e65::2\n"
        "HPCNET_SUBNET=10.128.0.0/27\n"
        "HPCNET_NETNS=hpcnet-12\n"
        "HPCNET_HOSTS=/run/hpcnet/jobs/12/hosts\n"
        "HPCNET_RANK=1\n"
        "HPCNET_NODES=3\n"
        "HPCNET_MTU=1400\n"
    )
    assert jobfiles.network(made, adapters="mlx5_0").splitlines()[4] == "adapters=mlx5_0"


def test_the_environment_names_what_is_built() -> None:
    environment = jobfiles.environment(plan_of())
    assert environment["HPCNET_INTERFACE"] == names.TASKS_DEVICE
    assert environment["HPCNET_NETNS"] == names.netns(12)
    assert environment["HPCNET_MTU"] == "1450"


def test_the_variables_for_libraries_are_those_of_tasks_that_join() -> None:
    listed = jobfiles.environment(plan_of(variables={"A": "={interface}", "B": "", "C": "{interface}"}))
    assert listed["HPCNET_ENV"] == "A==hpc0 C=hpc0"
    assert interfaces.unlisted(listed["HPCNET_ENV"]) == {"A": "=hpc0", "C": "hpc0"}
    assert "HPCNET_ENV" not in jobfiles.environment(plan_of(variables={"A": ""}))
    assert "HPCNET_ENV" not in jobfiles.environment(plan_of(variables={"A": "x"}, join="none"))


# The plugin itself reads the file: its source is compiled with a Slurm that only writes down what it is told.
HARNESS = """\
#include "verdict.c"
#include "environment.c"

spank_err_t spank_setenv(spank_t sp, const char *name, const char *value, int overwrite)
{
	printf("%s=%s\\n", name, value);
	return ESPANK_SUCCESS;
}
spank_err_t spank_unsetenv(spank_t sp, const char *name) { abort(); }
spank_err_t spank_getenv(spank_t sp, const char *name, char *buf, int len) { return ESPANK_ENV_NOEXIST; }
spank_err_t spank_get_item(spank_t sp, spank_item_t item, ...) { abort(); }
spank_context_t spank_context(void) { abort(); }
void slurm_info(const char *format, ...) { abort(); }
void slurm_error(const char *format, ...) { abort(); }

int main(int argc, char *argv[])
{
	static char text[FILE_MAX_BYTES + 1];

	text[fread(text, 1, FILE_MAX_BYTES, stdin)] = '\\0';
	step.job_id = 12;
	step.uid = strtoul(argv[1], NULL, 10);
	take_network(NULL, text);
	printf("join=%d\\nnetns=%s\\nhosts=%s\\nrefusal=%s\\n", step.join, step.netns, step.hosts, step.refusal);
	return 0;
}
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads a network file from stdin as the SPANK plugin does, for a user id, and says what it took."""
    if shutil.which("gcc") is None or not Path("/usr/include/slurm/spank.h").exists():
        pytest.skip("gcc or Slurm's headers are not installed")
    directory = tmp_path_factory.mktemp("plugin")
    (directory / "harness.c").write_text(HARNESS, encoding="utf-8")
    program = directory / "harness"
    command = ["gcc", "-w", f"-I{PLUGIN.parent}", "-o", str(program), str(directory / "harness.c")]
    subprocess.run(command, check=True, timeout=60)
    return program


def taken(plugin: Path, text: str, uid: int = 1001) -> dict[str, str]:
    """What the plugin took out of a network file."""
    done = subprocess.run([plugin, str(uid)], input=text, capture_output=True, text=True, check=True, timeout=60)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("join", ["tasks", "none"])
def test_the_plugin_takes_all_of_a_network_file(plugin: Path, join: str) -> None:
    made = plan_of(join=join, variables=interfaces.DEFAULTS)
    assert taken(plugin, jobfiles.network(made, adapters="mlx5_0 mlx5_1")) == {
        **jobfiles.environment(made),
        **made.variables,
        "join": "1" if join == "tasks" else "0",
        "netns": names.netns(12),
        "hosts": f"{names.job_dir(12)}/hosts",
        "refusal": "",
    }


def test_the_plugin_refuses_it_to_another_user(plugin: Path) -> None:
    assert "another user's job" in taken(plugin, jobfiles.network(plan_of()), uid=1002)["refusal"]


@pytest.mark.parametrize("key", ["uid", "netns", "hosts"])
def test_the_plugin_needs_each_of_the_first_lines(plugin: Path, key: str) -> None:
    text = re.sub(f"^{key}=.*\n", "", jobfiles.network(plan_of()), flags=re.MULTILINE)
    assert taken(plugin, text)["refusal"]


def test_a_network_file_is_far_below_the_plugins_limits() -> None:
    source = PLUGIN.with_name("hpcnet_spank.h").read_text(encoding="utf-8")
    limit = {name: int(size) for name, size in re.findall(r"char (netns|hosts)\[(\d+)\]", source)}
    longest = re.search(r"FILE_MAX_BYTES (\d+)", source)
    variables = {f"{number:064}": 128 * "x" for number in range(interfaces.LIMIT)}
    for given, part in ((interfaces.DEFAULTS, 10), (variables, 4)):
        assert longest and len(jobfiles.network(plan_of(endpoints=4, variables=given))) < int(longest[1]) // part
    assert len(names.netns(2**32 - 1)) < limit["netns"]
    assert len(f"{names.job_dir(2**32 - 1)}/hosts") < limit["hosts"]
