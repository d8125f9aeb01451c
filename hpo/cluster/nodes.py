"""Before the first training the nodes of a Ray cluster are asked whether they reach the storage."""

from __future__ import annotations

import platform
import uuid

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hpo.storage.folder import FolderStorage
from hpo.storage.places import checked
from hpo.storage.protocol import Storage
from hpo.study.study_run import StudyError

_SECONDS = 300.0
"""A node that has not answered by then is left to Ray, which will say what is wrong with it."""


def check_nodes(storage: Storage) -> None:
    """Raises unless every node finds in the storage what this process puts there.

    Nodes that join later are not asked; a cell that fails on one says so.

    Raises:
        StudyError: a node does not, or the storage is a relative path, which is another folder on
            each node.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    if storage.relative:
        raise StudyError(
            f"the Ray cluster has {len(nodes)} nodes, and the cells' folder was given by a path "
            f"that is another one on each of them; give --storage (or --output) as an absolute "
            f"path that all nodes share, such as NFS, or --storage s3://BUCKET/PREFIX"
        )
    with checked(storage) as (name, content):
        look = ray.remote(num_cpus=0, max_retries=1)(looked_at)
        asked = {
            look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(storage, name, content): node
            for node in nodes
        }
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS)
        for answer in answered:
            _raise_what_is_wrong(storage, asked[answer], answer)


def _raise_what_is_wrong(storage: Storage, node: str, answer: ray.ObjectRef) -> None:
    try:
        trouble = ray.get(answer)
    except ray.exceptions.RayError as error:
        trouble = f"node {node[:8]}: {str(error).strip().splitlines()[-1]}"
    if trouble is None:
        return
    way_out = "give each node credentials and the same AWS_* variables"
    if isinstance(storage, FolderStorage):
        way_out = "mount it there, or give --storage a place that all nodes share"
    raise StudyError(f"not all nodes of the Ray cluster reach {storage.uri}: {trouble}; {way_out}")


def looked_at(storage: Storage, name: str, content: bytes) -> str | None:
    """Returns what is wrong with a storage as seen from here, or None: the file must be there with
    this content, and another one can be written beside it."""
    here, beside = platform.node(), f"{name}-{uuid.uuid4().hex}"
    try:
        if storage.read(name) != content:
            return f"{here} finds another file there"
        storage.write(beside, content)
        storage.delete(beside)
    except FileNotFoundError:
        return f"{here} does not find there what this machine wrote"
    except OSError as error:
        return f"{here}: {error}"
    return None
