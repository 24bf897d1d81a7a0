"""Who may ask the agent for its state, for a drain or for its metrics; see :mod:`warmfleet_contracts.bearer`."""

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
        digests: Where the digests of the tokens that open the metrics are; None: they are open.
    """

    def __init__(
        self,
        pod_uid: str = "",
        files: KeyFiles | None = None,
        prestop_token: str = "",
        digests: KeyFiles | None = None,
    ) -> None:
        self._pod_uid, self._files, self._prestop_token = pod_uid, files, prestop_token
        self._digests = digests
        self._readers: tuple[str, ...] = ()
        self.refused = 0
        """Requests that were refused."""

    @classmethod
    def of(cls, settings: Settings) -> Guard:
        """The guard that the settings ask for."""
        folder = settings.keys
        if folder is None:
            return cls(settings.pod_uid, None, settings.prestop_token)
        files = KeyFiles(folder / bearer.KEY_ITEM, folder / bearer.PREVIOUS_ITEM)
        digests = KeyFiles(folder / bearer.DIGEST_ITEM, folder / bearer.PREVIOUS_DIGEST_ITEM, required=False)
        return cls(settings.pod_uid, files, settings.prestop_token, digests)

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
        return self._counted(bearer.matches(bearer.presented(header), accepted))

    def shows(self, header: str | None) -> bool:
        """Whether metrics may be shown; a request that may not see them is counted.

        They are open while the Secret names no reader. A Secret that is lost opens nothing.

        Args:
            header: ``Authorization`` of the request.
        """
        if self._files is None or self._digests is None:
            return True
        named = self._digests.read()
        if named or self._files.read():
            self._readers = named
        return not self._readers or self._counted(
            bearer.matches(bearer.digest(bearer.presented(header)), self._readers)
        )

    def _counted(self, passes: bool) -> bool:  # noqa: FBT001 - the result itself
        self.refused += not passes
        return passes
