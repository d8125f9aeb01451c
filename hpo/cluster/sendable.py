"""What Python code gave for processes of Ray: each of them gets a copy."""

from __future__ import annotations

from collections.abc import Mapping

from ray import cloudpickle

from hpo.study.study_run import StudyError


def check_sendable(things: Mapping[str, object]) -> None:
    """Raises unless each thing can go to a process of Ray.

    Args:
        things: by the name that the message calls them.

    Raises:
        StudyError: one cannot be copied, such as a function that holds a lock or an open file.
    """
    for name, thing in things.items():
        try:
            cloudpickle.dumps(thing)
        except Exception as error:  # of as many kinds as objects
            reason = str(error).strip().partition("\n")[0]
            raise StudyError(
                f"{name} cannot be sent to a worker: {type(error).__name__}: {reason}; define it "
                "at the top of a module, open inside it what it holds (a lock, a file, a "
                "connection), or do without Ray: workers=0"
            ) from error
