"""A blocking cluster as seen by jobs that are to be run in some special way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, overload

from dispy_trio.client.jobs import DispyJob
from dispy_trio.client.options import Options, make_options
from dispy_trio.models import JobExtras, JobOptions

if TYPE_CHECKING:
    from dispy_trio.client.blocking import JobCluster

__all__ = ["OptionedCluster"]

P = ParamSpec("P")
T = TypeVar("T")


class OptionedCluster(Generic[P, T]):
    """A cluster as seen by jobs that are to be run in some special way; see `JobCluster.options`."""

    def __init__(self, cluster: JobCluster[P, T], options: JobOptions) -> None:
        self._cluster = cluster
        self._options = options

    def options(self, **options: Unpack[Options]) -> OptionedCluster[P, T]:
        """The same with more of the options of `JobCluster.options`."""
        return OptionedCluster(self._cluster, make_options(self._options, **options))

    @overload
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> DispyJob[T]: ...
    @overload
    def submit(
        self, *args: Any, dispy_job_depends: Sequence[Any], **kwargs: Any
    ) -> DispyJob[T]: ...
    def submit(self, *args: Any, **kwargs: Any) -> DispyJob[T]:
        """As `JobCluster.submit`."""
        return self._cluster._submit_with(args, kwargs, JobExtras(self._options))

    @overload
    def submit_job_id(self, job_id: Any, *args: P.args, **kwargs: P.kwargs) -> DispyJob[T]: ...
    @overload
    def submit_job_id(
        self, job_id: Any, *args: Any, dispy_job_depends: Sequence[Any], **kwargs: Any
    ) -> DispyJob[T]: ...
    def submit_job_id(self, job_id: Any, *args: Any, **kwargs: Any) -> DispyJob[T]:
        """As `JobCluster.submit_job_id`."""
        return self._cluster._submit_with(args, kwargs, JobExtras(self._options), job_id)

    @overload
    def submit_node(self, node: Any, *args: P.args, **kwargs: P.kwargs) -> DispyJob[T] | None: ...
    @overload
    def submit_node(
        self, node: Any, *args: Any, dispy_job_depends: Sequence[Any], **kwargs: Any
    ) -> DispyJob[T] | None: ...
    def submit_node(self, node: Any, *args: Any, **kwargs: Any) -> DispyJob[T] | None:
        """As `JobCluster.submit_node`."""
        key = self._cluster._node_for_jobs(node)
        if key is None:
            return None
        return self._cluster._submit_with(args, kwargs, JobExtras(self._options, pinned=key))

    def map(
        self,
        *iterables: Iterable[Any],
        buffersize: int | None = None,
        chunksize: int | None = None,
        progress: bool = False,
    ) -> Iterator[T]:
        """As `JobCluster.map`; the options are those of each job, which may hold many calls."""
        return self._cluster._map(iterables, buffersize, chunksize, self._options, progress)
