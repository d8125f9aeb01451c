"""MLflow, written by one writer: the driver of a study."""

from hpo.tracking.store import check_tracking_uri
from hpo.tracking.stored import RunStatus
from hpo.tracking.tracker import StudyTracker
from hpo.tracking.uris import TrackingError, default_tracking_uri

__all__ = [
    "RunStatus",
    "StudyTracker",
    "TrackingError",
    "check_tracking_uri",
    "default_tracking_uri",
]
