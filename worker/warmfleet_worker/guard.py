"""Who may ask the agent for its state or for a drain; see :mod:`warmfleet_contracts.bearer`."""

from __future__ import annotations

from warmfleet_contracts import bearer
from warmfleet_runtime.keys import KeyFiles

from warmfleet_worker.settings import Settings


class Guard:
    """Judges ``Authorization`` headers.

    Args:
        pod_uid: UID of the agent's pod.
        files: Where the namespace's keys are; None: nobody is refused.
        prestop_token: What the pod's own hook presents.
    """

    def __init__(self, pod_uid: str = "", files: KeyFiles | None = None, prestop_token: str = "") -> None:
        self._pod_uid, self._files, self._prestop_token = pod_uid, files, prestop_token
        self.refused = 0
        """Requests that were refused."""

    @classmethod
    def of(cls, settings: Settings) -> Guard:
        """The guard that the settings ask for."""
        folder = settings.keys
        files = None if folder is None else KeyFiles(folder / bearer.KEY_ITEM, folder / bearer.PREVIOUS_ITEM)
        return cls(settings.pod_uid, files, settings.prestop_token)

    def lets(self, header: str | None, *, prestop: bool = False) -> bool:
        """Whether a request may pass; one that may not is counted.

        Args:
            header: ``Authorization`` of the request.
            prestop: Whether it is the preStop hook, which has a token of its own too.
        """
        if self._files is None:
            return True
        accepted = [bearer.bearer(key, self._pod_uid) for key in self._files.read() if bearer.usable(key)]
        if prestop:
            accepted.append(self._prestop_token)
        passes = bearer.matches(bearer.presented(header), accepted)
        self.refused += not passes
        return passes
