"""A Ray cluster of two nodes on this machine, one CPU each, and Slurm as submitit plays it here."""

from __future__ import annotations

import os

import pytest

from reproductions.engine.work.sessions.executors.local import Local
from reproductions.engine.work.sessions.executors.slurm import Slurm

MEMORY = 80 * 2**20  # bytes of each node's object store, which nothing of ours uses


class Nodes:
    """The cluster, and the node that may be taken away."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        about = {"num_cpus": 1, "object_store_memory": MEMORY}
        self.cluster = Cluster(initialize_head=True, head_node_args={**about, "include_dashboard": False})
        self.second = self.cluster.add_node(**about)
        self.address = self.cluster.address


@pytest.fixture(scope="package")
def nodes():
    """Started once; its processes have the environment of this moment."""
    pytest.importorskip("ray")
    os.environ["TOY_SECONDS_A_STEP"] = "0.02"  # of no effect on figures: there is time to kill a run
    try:
        found = Nodes()
    finally:
        del os.environ["TOY_SECONDS_A_STEP"]
    yield found
    found.cluster.shutdown()


@pytest.fixture(params=["local", "slurm", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request, tmp_path):
    """Each of them, on this machine."""
    if request.param == "local":
        found = Local()
    elif request.param == "slurm":
        found = Slurm(["cluster=local", "time=10"], folder=tmp_path)
    else:
        from reproductions.engine.work.sessions.executors.ray import Ray

        found = Ray(request.getfixturevalue("nodes").address)
    yield found
    found.close()
