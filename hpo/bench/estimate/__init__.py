"""A plan on paper says what a study would cost before anything is run."""

from hpo.bench.estimate.report import plan_report
from hpo.bench.estimate.work import Table, planned_jobs

__all__ = ["Table", "plan_report", "planned_jobs"]
