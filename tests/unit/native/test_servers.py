import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import servers

from acequia import topology
from acequia.layers import Buckets

SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]


@pytest.fixture
def nothing_running(tmp_path):
    return servers.Stack(tmp_path, servers.Ports(1, 2, 3, 4, 5, 6), dict.fromkeys(servers.NAMES, "secret"))


@pytest.fixture
def start():
    started = []

    def start(**environment):
        process = subprocess.Popen(SLEEP, env={**os.environ, **environment}, stdout=subprocess.PIPE)
        assert process.stdout.readline()  # it runs Python now, so its environment is its own
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_minio_has_a_target_for_each_notification_of_the_topology(nothing_running):
    environment = servers.minio_environment(nothing_running)
    notifications = topology.topology(Buckets()).notifications
    for notification in notifications:
        assert environment[f"MINIO_NOTIFY_AMQP_ENABLE_{notification.target}"] == "on"
        assert environment[f"MINIO_NOTIFY_AMQP_ROUTING_KEY_{notification.target}"] == notification.routing_key
        assert environment[f"MINIO_NOTIFY_AMQP_EXCHANGE_{notification.target}"] == topology.OBJECTS
        assert environment[f"MINIO_NOTIFY_AMQP_PUBLISHING_CONFIRMS_{notification.target}"] == "on"
    assert sum(name.startswith("MINIO_NOTIFY_AMQP_ENABLE_") for name in environment) == len(notifications)


def test_a_process_id_that_was_used_again_is_not_signalled(start):
    child = start()
    servers.Process(child.pid, "another start time").signal(signal.SIGKILL)
    assert servers.Process.of(child.pid).alive
    servers.Process.of(child.pid).signal(signal.SIGKILL)
    assert child.wait(10) == -signal.SIGKILL


def test_a_zombie_is_not_alive(start):
    child = start()
    process = servers.Process.of(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.alive


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_stopping_ends_what_the_servers_started_and_nothing_else(nothing_running, tmp_path, start):
    ours = start(**{servers.MARK: str(tmp_path)})
    of_another_stack = start(**{servers.MARK: f"{tmp_path}-2"})
    assert servers.members(tmp_path) == [ours.pid]
    servers._children[ours.pid] = ours
    servers.stop_servers(nothing_running)
    assert ours.wait(10) == -signal.SIGKILL
    assert of_another_stack.poll() is None


def test_a_stack_survives_its_state_file(nothing_running):
    nothing_running.processes["minio"] = servers.Process(7, "8")
    nothing_running.owner = servers.Process(9, "10")
    read = servers.Stack.from_json(json.loads(json.dumps(nothing_running.as_json())))
    assert read == nothing_running


def test_ports_are_different_and_free():
    ports = vars(servers.free_ports()).values()
    assert len(set(ports)) == 6
    for port in ports:
        with socket.socket() as probe:
            probe.bind((servers.HOST, port))


@pytest.mark.parametrize("answers", [servers.minio_answers, lambda port: servers.amqp_opens(port, "a", "b")])
def test_a_port_where_nothing_useful_answers_is_not_ready(answers):
    with socket.socket() as closed:
        closed.bind((servers.HOST, 0))
        assert not answers(closed.getsockname()[1])
