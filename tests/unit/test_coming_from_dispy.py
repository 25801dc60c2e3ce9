"""The page for users of dispy names everything that dispy has, and everything of ours."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from typer.main import get_command

import dispy_trio
from dispy_trio import config
from dispy_trio import job as in_job
from dispy_trio.cli.app import app
from dispy_trio.cli.console import HELP
from dispy_trio.compute.depends import PRESENT
from dispy_trio.httpd import DispyHTTPServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "coming-from-dispy.md").read_text()
STATES = {"same", "changed", "replaced", "no effect", "not yet"}
NEW = "New beside the old"

# --- what dispy 4.15 has, by the section of the page that tells of it ------------------------------
DISPY = {
    "JobCluster": """
        computation nodes depends job_status cluster_status host dispy_port ext_host ip_addr
        ext_ip_addr ipv4_udp_multicast dest_path loglevel callback setup cleanup ping_interval
        pulse_interval poll_interval reentrant secret keyfile certfile recover_file
    """,
    "SharedJobCluster": """
        computation nodes depends job_status cluster_status host dispy_port client_port
        scheduler_host scheduler_node ext_host ip_addr ext_ip_addr loglevel callback setup cleanup
        dest_path poll_interval reentrant exclusive secret keyfile certfile recover_file
    """,
    "Methods of a cluster": """
        submit submit_job_id submit_node submit_job_id_node dispy_job_depends cancel discover_nodes
        allocate_node deallocate_node close_node resetup_node terminate_pending node_jobs from_node
        set_node_cpus send_file relay wait timeout close terminate shutdown status jobs_pending
        print_status wall_time stats name __enter__ __exit__
    """,
    "DispyJob": """
        id status result stdout stderr exception submit_time start_time end_time host ip_addr finish
        clear __lt__ Created Running ProvisionalResult Cancelled Terminated Abandoned Finished
    """,
    "NodeAllocate": """
        host port cpus depends setup_args allocate cluster ip_addr name avail_info platform
    """,
    "DispyNode and DispyNodeAvailInfo": """
        ip_addr name cpus avail_cpus busy jobs_done cpu_time tx rx update_time avail_info
        Initialized Closed AvailInfo cpu memory disk swap
    """,
    "Names inside of jobs": """
        dispy_provisional_result result relay timeout dispy_send_file path dispy_job_path
        dispy_node_name dispy_node_ip_addr dispynode_logger dispynode_shutdown init_depends
        KeyboardInterrupt os sys time stat socket multiprocessing threading subprocess traceback
        marshal tempfile shutil glob pickle io signal platform copy struct hashlib re errno psutil
        netifaces pycos dispy
    """,
    "Setup and cleanup": "setup 0 1 2 --unsafe_setup",
    "dispy-trio node": """
        --config --save_config -c --cpus -d --debug -i --host --ext_host -p --dispy_port
        --ipv4_udp_multicast --name --dest_path_prefix --init --scheduler_host --scheduler_node
        --max_file_size --zombie_interval --ping_interval --service_start --service_stop
        --service_end --serve --client_shutdown --force_cleanup --msg_timeout -s --secret
        --admin_secret --certfile --keyfile --clean --unsafe_setup --daemon
        quit exit stop start release cpus
    """,
    "dispy-trio scheduler": """
        --config --save_config -d --debug -n --node --nodes -i --host --ext_host -p --port
        --ipv4_udp_multicast --node_secret --node_keyfile --node_certfile --cluster_secret
        --cluster_keyfile --cluster_certfile --pulse_interval --ping_interval --zombie_interval
        --msg_timeout --dest_path_prefix --max_file_size --clean --httpd --fair_cluster_scheduler
        --early_cluster_scheduler --cooperative --cleanup_nodes --daemon
    """,
    "dispy-trio relay": """
        -d --debug -i --ip_addr --scheduler_node -p --dispy_port --relay_port --scheduler_port
        -s --secret --certfile --keyfile --ipv4_udp_multicast --daemon
    """,
    "dispy-trio admin": """
        --config --save_config --secret --http_host --http_port --info_port --node_port
        --poll_interval --ping_interval --certfile --keyfile --ipv4_udp_multicast -i --host
        -d --debug secret scan quit exit get_uid status update node_info set_secret add_node
        poll_interval set_cpus service_time serve_clients
    """,
    "dispy-trio run": """
        computation -a -f -n --nodes -c -d --debug --ip_addr --secret --certfile --keyfile
        --scheduler_node
    """,
    "Web monitor": """
        DispyHTTPServer cluster host port poll_sec DocumentRoot keyfile certfile show_job_args
        shutdown wait add_cluster del_cluster cluster_status cluster_updates nodes node_info
        cancel_jobs add_node allocate_node deallocate_node close_node set_cpus update
    """,
    "dispy.config": """
        DispyPort HTTPServerPort IPv6MulticastGroup IPv4MulticastGroup MsgTimeout MaxFileSize
        ClientPort NodePort SharedSchedulerPort SharedSchedulerClientPort Java
        PickleProtocolVersion
    """,
    "Recovery": "recover_jobs recover_file timeout terminate_pending",
    "Names of the module": """
        logger DispyJob DispyNode NodeAllocate JobCluster SharedJobCluster DispyNodeAvailInfo
        ClusterStatus recover_jobs host_addrinfo auth_code config httpd
        DEBUG INFO WARNING ERROR CRITICAL
    """,
}

NUMBERS = {
    "Created": 5,
    "Running": 6,
    "ProvisionalResult": 7,
    "Cancelled": 8,
    "Terminated": 9,
    "Abandoned": 10,
    "Finished": 11,
    "Initialized": 4,
    "Closed": 16,
    "AvailInfo": 17,
}


# --- what the page says ----------------------------------------------------------------------------
def read_rows(page: str) -> dict[str, list[list[str]]]:
    """The cells of all rows of the tables, by section; without the heads of the tables."""
    rows: dict[str, list[list[str]]] = {}
    section = ""
    lines = page.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        is_head = line.startswith("| ---") or following.startswith("| ---")
        if line.startswith("#"):
            section = line.lstrip("# ")
        elif line.startswith("| ") and not is_head:
            rows.setdefault(section, []).append([c.strip() for c in line[2:-1].split(" | ")])
    return rows


def names_in(rows: Iterable[list[str]]) -> set[str]:
    """Names and options in backticks in the first cells."""
    spans = [span for cells in rows for span in re.findall(r"`([^`]+)`", cells[0])]
    return {name for span in spans for name in re.findall(r"-{0,2}\w[\w-]*", span)}


ROWS = read_rows(PAGE)


def missing(names: Iterable[str], *sections: str) -> list[str]:
    """Those that have no row in these sections."""
    told = names_in(row for section in sections for row in ROWS[section])
    return sorted(set(names) - told)


def public(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith("_")]


# --- dispy's ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("section", DISPY)
def test_all_that_dispy_has_is_told(section: str) -> None:
    assert missing(DISPY[section].split(), section) == []


def test_a_name_that_is_not_told_is_found_out() -> None:
    assert missing(["submit", "submit_by_post"], "Methods of a cluster") == ["submit_by_post"]
    assert missing(["--cpus", "--cpu_frequency"], "dispy-trio node") == ["--cpu_frequency"]


@pytest.mark.parametrize("section", DISPY)
def test_each_row_says_how_it_stands(section: str) -> None:
    for cells in ROWS[section]:
        assert len(cells) == 3, cells
        assert cells[1] in STATES, cells
        # A reason in a line, for whatever is not as it was.
        assert cells[1] in ("same", "not yet", "no effect") or cells[2], cells


def test_the_meaning_of_each_state_is_told() -> None:
    assert {cells[0] for cells in ROWS["Coming from dispy"]} == STATES


@pytest.mark.parametrize(("name", "number"), NUMBERS.items())
def test_numbers_of_states_are_told_and_true(name: str, number: int) -> None:
    assert f"`{name}` ({number})" in PAGE
    assert dispy_trio.DispyJob.Created == 5
    owner = dispy_trio.DispyNode if number in (4, 16, 17) else dispy_trio.DispyJob
    assert getattr(owner, name) == number


# --- ours ------------------------------------------------------------------------------------------
def parameters(function: object) -> list[str]:
    assert callable(function)
    return [name for name in inspect.signature(function).parameters if name != "self"]


def attributes(cls: type) -> list[str]:
    """Public attributes, also those that only instances have."""
    fields = [field.name for field in getattr(cls, "__attrs_attrs__", ())]
    source = inspect.getsource(cls) if inspect.isfunction(cls.__init__) else ""
    assigned = re.findall(r"\bself\.([a-z]\w*)\b[^=\n]* = ", source)
    return sorted({*public(dir(cls)), *public(fields), *assigned} - set(dir(tuple)))


def test_each_parameter_of_a_cluster_is_told() -> None:
    assert missing(parameters(dispy_trio.JobCluster.__init__), "JobCluster", NEW) == []


def test_dispy_s_parameters_are_in_dispy_s_order() -> None:
    assert parameters(dispy_trio.JobCluster.__init__)[:24] == DISPY["JobCluster"].split()


@pytest.mark.parametrize(
    ("cls", "section"),
    [
        (dispy_trio.JobCluster, "Methods of a cluster"),
        (dispy_trio.DispyJob, "DispyJob"),
        (dispy_trio.NodeAllocate, "NodeAllocate"),
        (dispy_trio.DispyNode, "DispyNode and DispyNodeAvailInfo"),
        (dispy_trio.DispyNodeAvailInfo, "DispyNode and DispyNodeAvailInfo"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_public_attribute_is_told(cls: type, section: str) -> None:
    assert missing(attributes(cls), section, NEW) == []


def test_each_exported_name_is_told() -> None:
    assert missing(public(dispy_trio.__all__), "Names of the module", NEW) == []


def test_what_a_job_may_import_is_told() -> None:
    assert missing(in_job.__all__, NEW) == []


@pytest.mark.parametrize("command", ["node", "run"])
def test_each_option_of_a_command_is_told(command: str) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    options = {name for parameter in commands[command].params for name in parameter.opts}
    told = names_in([*ROWS[f"dispy-trio {command}"], *ROWS[NEW]])
    dashed = {name.replace("_", "-") for name in told}
    assert {name for name in options if name.startswith("-")} - dashed == set()


def options_of(command: str) -> set[str]:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    return {
        name.replace("_", "-")
        for parameter in commands[command].params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


THERE = {
    "JobCluster": {*parameters(dispy_trio.JobCluster.__init__)},
    "Methods of a cluster": {
        *dir(dispy_trio.JobCluster),
        *dispy_trio.ClusterStatus._fields,
        "dispy_job_depends",
        "name",
    },
    "DispyJob": {*dir(dispy_trio.DispyJob), "job", "DispyJob"},
    "NodeAllocate": {
        *dir(dispy_trio.NodeAllocate),
        *parameters(dispy_trio.NodeAllocate.__init__),
    },
    "DispyNode and DispyNodeAvailInfo": {
        *attributes(dispy_trio.DispyNode),
        *dispy_trio.DispyNodeAvailInfo._fields,
    },
    "dispy-trio node": {*options_of("node"), *re.findall(r"^\w+", HELP, re.MULTILINE)},
    # That one is known, to be refused in a line.
    "dispy-trio run": {*options_of("run"), "computation"} - {"--scheduler-node"},
    "Web monitor": {
        "DispyHTTPServer",
        *dir(DispyHTTPServer),
        *parameters(DispyHTTPServer.__init__),
    },
    "dispy.config": {*dir(config)},
    "Names of the module": {*dir(dispy_trio), *dir(dispy_trio.logger)},
}
"""What is there of that which a section tells of."""


@pytest.mark.parametrize("section", THERE)
def test_what_is_told_to_be_there_is_and_nothing_else(section: str) -> None:
    wrong = []
    for cells in ROWS[section]:
        if cells[0].startswith("requests:"):
            continue
        spans = re.findall(r"`([^`]+)`", cells[0])
        names = {re.sub(r"(?<=.)_", "-", span) if span.startswith("-") else span for span in spans}
        is_there = cells[1] in ("same", "changed", "no effect")
        for name in {re.findall(r"-{0,2}\w[\w-]*", name)[0] for name in names}:
            if (name in THERE[section]) != is_there:
                wrong.append((name, cells[1]))
    assert not wrong


def test_modules_that_jobs_are_told_to_find_are_those_they_find() -> None:
    (cells,) = (row for row in ROWS["Names inside of jobs"] if "`os`" in row[0])
    assert set(re.findall(r"`(\w+)`", cells[0])) == PRESENT


def test_each_program_in_the_table_of_examples_exists() -> None:
    named = re.findall(r"`(examples/\w+\.py)`", PAGE)
    assert len(named) >= 17
    for name in named:
        assert (ROOT / name).exists(), name
