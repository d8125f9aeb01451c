"""Ray trains the cells of a study here or on a cluster; no other folder imports it."""

from hpo.cluster.address import check_cluster
from hpo.cluster.runner import pixel_bytes, run_on_ray
from hpo.cluster.session import Demand, Session, default_workers, session

__all__ = [
    "Demand",
    "Session",
    "check_cluster",
    "default_workers",
    "pixel_bytes",
    "run_on_ray",
    "session",
]
