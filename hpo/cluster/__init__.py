"""Ray trains the cells of a study here or on a cluster; no other folder imports it.

What imports Ray Tune and torch is imported by its own name: a process that runs one trial of a
comparison needs neither.
"""

from hpo.cluster.address import find_cluster
from hpo.cluster.session import Demand, Session, default_workers, session

__all__ = [
    "Demand",
    "Session",
    "default_workers",
    "find_cluster",
    "session",
]
